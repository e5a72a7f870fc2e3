"""The resources assets ask for, each opening one store or naming one device; their defaults come from the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from platform_assets.settings import Settings
from platform_assets.vision.machine.devices import RequestedDevice, RequestedEngine, choose_device

if TYPE_CHECKING:
    from platform_assets.stores.embeddings import EmbeddingCache
    from platform_assets.stores.outputs import Outputs
    from platform_assets.stores.runs import Runs
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.datasets.sources import Format
    from platform_assets.vision.images.pixel_cache import PixelCache
    from platform_assets.vision.machine.devices import DeviceChoice
    from platform_assets.vision.networks.weight_files import WeightPlaces


class TablesResource(dg.ConfigurableResource[Any]):
    """Parquet tables, one folder an asset."""

    root: str = Field(description="folder of the tables")

    def open(self) -> Tables:
        from platform_assets.stores.tables import Tables

        return Tables(Path(self.root))


class OutputsResource(dg.ConfigurableResource[Any]):
    """Checkpoint folders, local or on any fsspec URL."""

    url: str = Field(description="folder or fsspec URL")
    scratch: str = Field(description="local folder for work in progress and downloads when the URL is remote")

    def open(self) -> Outputs:
        from platform_assets.stores.outputs import Outputs

        return Outputs(self.url, scratch=Path(self.scratch))


class RunsResource(dg.ConfigurableResource[Any]):
    """Training runs and registered models in MLflow."""

    tracking_uri: str = Field(description="MLflow tracking URI")
    artifact_root: str = Field(description="folder or URL of MLflow's artifacts")

    def open(self) -> Runs:
        from platform_assets.stores.runs import Runs

        runs = Runs(self.tracking_uri, artifact_root=self.artifact_root)
        runs.prepare()
        return runs


class FilesResource(dg.ConfigurableResource[Any]):
    """Folders of a project: where sources are looked for, and where cards and tiny subsets are written."""

    root: str = Field(description="the project's folder; relative source paths start here")
    data: str = Field(description="folder of everything a run writes")
    pixel_cache_gb: float = Field(default=0, description="disk for decoded pixels; 0 keeps none")

    def card(self, *names: str, suffix: str = ".md") -> Path:
        return Path(self.data, "cards", *names).with_suffix(suffix)

    def source_root(self, source: Format, on_progress: Callable[[int, int | None], None] | None = None) -> Path:
        """The folder that the paths of a source's records start at, its files brought here first where need be."""
        from platform_assets.stores.source_roots import ready_root

        return ready_root(source, Path(self.root), Path(self.data), on_progress)

    def stated_version(self, source: Format) -> str | None:
        """The version that a source states, such as DVC's hash; None where its files must be looked at."""
        from platform_assets.stores.source_roots import stated_version

        return stated_version(source, Path(self.root), Path(self.data))

    def reviews(self, *names: str) -> Path:
        return Path(self.data, "reviews", *names)

    def gate_records(self, *names: str) -> Path:
        return Path(self.data, "gate_records", *names)

    def tiny_subset(self, dataset: str) -> Path:
        return Path(self.data, "tiny", dataset)

    def decoded(self) -> Path:
        """Where decoded images go that do not fit in memory."""
        return Path(self.data, "cache", "decoded")

    def weight_places(self) -> WeightPlaces:
        from platform_assets.vision.networks.weight_files import WeightPlaces

        return WeightPlaces(Path(self.root), Path(self.data))

    def pixel_cache(self) -> PixelCache | None:
        from platform_assets.vision.images.pixel_cache import PixelCache

        most_bytes = self.pixel_cache_bytes()
        return PixelCache(self.pixel_cache_folder(), max_bytes=most_bytes) if most_bytes else None

    def pixel_cache_folder(self) -> Path:
        return Path(self.data, "cache", "pixels")

    def pixel_cache_bytes(self) -> int:
        return int(self.pixel_cache_gb * 1e9)

    def computing_threads(self) -> Path:
        """Where measurements of how many threads compute fastest are kept."""
        return Path(self.data, "cache", "threads")

    def embedding_cache(self) -> EmbeddingCache:
        from platform_assets.stores.embeddings import EmbeddingCache

        return EmbeddingCache(Path(self.data, "cache"))


class ComputeResource(dg.ConfigurableResource[Any]):
    """What the heavy steps run on. Override it in the launchpad to force a device or an engine."""

    device: RequestedDevice = Field(default="auto", description="where torch computes")
    engine: RequestedEngine = Field(default="auto", description="what embeds images")
    threads: int = Field(default=0, description="of torch's trainings on a CPU; 0 measures what is fastest")

    def choose(self, log: Any) -> DeviceChoice:
        choice = choose_device(self.device)
        log.info(f"device: {choice.device} ({choice.reason})")
        return choice


@dg.resource(config_schema=dict, description="dagster-mlflow's own mlflow_tracking resource, loaded on use")
def mlflow_tracking(context: dg.InitResourceContext) -> Any:
    """For assets of your own that want it. Kestrel's own assets track through `runs`: this one keeps a global active run."""
    from dagster_mlflow import mlflow_tracking as tracking

    return tracking.resource_fn(context)


def resources(settings: Settings) -> dict[str, Any]:
    """Every resource of a deployment, by the name assets use."""
    data = settings.data_dir
    return {
        "tables": TablesResource(root=str(settings.tables_dir)),
        "outputs": OutputsResource(url=settings.outputs_url, scratch=str(settings.cache_dir / "outputs")),
        "runs": RunsResource(tracking_uri=settings.mlflow_uri, artifact_root=str(data / "mlflow" / "artifacts")),
        "files": FilesResource(root=str(settings.root), data=str(data), pixel_cache_gb=settings.pixel_cache_gb),
        "compute": ComputeResource(device=settings.device, engine=settings.engine, threads=settings.threads),
        "mlflow": mlflow_tracking.configured(
            {"experiment_name": "dagster", "mlflow_tracking_uri": settings.mlflow_uri}
        ),
    }
