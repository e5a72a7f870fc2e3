"""The judgement on one candidate: what the gate's rules measure of it, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platform_assets.components.evidence_steps import (
    Candidate,
    Evidence,
    checks_not_green,
    classifier_of,
    predictions_by,
    unstated_licence,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from platform_assets.components.desk import Desk
    from platform_assets.stores.gate_records import Approval, GateRecord
    from platform_assets.stores.registry import RegisteredVersion
    from platform_assets.vision.evaluation.gates import ApprovalRule, Comparison, Decision, Finding


def judge(
    desk: Desk,
    candidate: Candidate,
    verified: tuple[Evidence | None, list[Finding]],
    incumbent: RegisteredVersion | None,
    *,
    approvals: Sequence[Approval],
    rollback: GateRecord | None,
) -> Decision:
    """`verified` is what `verify` found; without evidence nothing is measured. `rollback` is the one that took the
    candidate out of service, where nobody asked for it by name since."""
    from platform_assets.vision.evaluation.gates import decide, none_of

    evidence, findings = verified
    findings = [
        *findings,
        none_of("licence_is_stated", unstated_licence(desk)),
        none_of("checks_are_green", checks_not_green(desk)),
    ]
    if evidence is None:
        return decide(findings, summary="")
    findings += _alone(desk, candidate, evidence)
    same = incumbent is not None and incumbent.tags["checkpoint_id"] == candidate.checkpoint.checkpoint_id
    findings += _not_again(candidate, rollback, same=same)
    metric = desk.spec.metric
    summary = f"{metric} {getattr(evidence.test, metric):.4f}, and there is no incumbent"
    if incumbent is not None and not same:
        comparison, against = _against(desk, evidence, incumbent)
        findings += against
        summary = comparison.text(metric) if comparison else ""
    if desk.spec.gate.approval is not None and desk.spec.gate.approval.required and not same:
        findings.append(_approval(desk, candidate, desk.spec.gate.approval, approvals))
    return decide(findings, summary=summary)


def _alone(desk: Desk, candidate: Candidate, evidence: Evidence) -> list[Finding]:
    """The rules on the candidate's own figures, size and speed."""
    from platform_assets.vision.evaluation.gate_evidence import latency_ms, lowest_class
    from platform_assets.vision.evaluation.gates import at_least, at_most
    from platform_assets.vision.networks.checkpoints import WEIGHTS_FILE

    gate, metric = desk.spec.gate, desk.spec.metric
    value = getattr(evidence.test, metric)
    said = f"{metric} {value:.4f} is below the minimum {gate.minimum:.4f}"
    found = [at_least("minimum", value, gate.minimum, said)]
    if gate.class_floor is not None:
        found.append(lowest_class(evidence.test, gate.class_floor))
    if (most := gate.max_ece) is not None:
        said = f"ECE {evidence.ece:.4f} after temperature scaling is over {most:.4f}"
        found.append(at_most("max_ece", evidence.ece, most, said))
    if (mb := gate.max_weights_mb) is not None:
        size = desk.folder(candidate.trial).manifest().files[WEIGHTS_FILE].bytes / 1e6
        found.append(at_most("max_weights_mb", size, mb, f"the weights take {size:.1f} MB, over {mb:g}"))
    if gate.max_parameters is not None or gate.max_latency_ms is not None:
        classifier = classifier_of(desk, candidate.checkpoint.folder_url)
        if (limit := gate.max_parameters) is not None:
            count = classifier.parameter_count
            found.append(at_most("max_parameters", count, limit, f"{count:,} parameters, over {limit:,}"))
        if (ms := gate.max_latency_ms) is not None:
            took = latency_ms(classifier)
            said = f"an image takes {took:.1f} ms by torch on this machine's CPU, over {ms:g}"
            found.append(at_most("max_latency_ms", took, ms, said))
    return found


def _not_again(candidate: Candidate, rollback: GateRecord | None, *, same: bool) -> list[Finding]:
    """Why the incumbent stays before the two are compared."""
    from platform_assets.vision.evaluation.gates import Finding

    found = []
    if same:
        said = "the incumbent is this very checkpoint"
        found.append(
            Finding(rule="is_not_the_incumbent", passed=False, measured=1, threshold=0, said=said, otherwise="kept")
        )
    if rollback is not None:
        who = rollback.asked.by or rollback.asked.os_user
        said = (
            f"this checkpoint was rolled back at {rollback.at:%Y-%m-%d %H:%M} UTC by {who}; to judge it all the same: "
            f"kestrel promote {rollback.experiment} --trial {candidate.trial}"
        )
        found.append(
            Finding(rule="was_not_rolled_back", passed=False, measured=1, threshold=0, said=said, otherwise="kept")
        )
    return found


def _against(desk: Desk, evidence: Evidence, incumbent: RegisteredVersion) -> tuple[Comparison | None, list[Finding]]:
    """Both on the challenger's test images that the incumbent was not fitted on, the incumbent predicting them anew."""
    import polars as pl

    from platform_assets.vision.datasets.label_map import LabelMapMismatch
    from platform_assets.vision.evaluation.gate_evidence import compare
    from platform_assets.vision.evaluation.gates import compared

    folder = desk.outputs.at(incumbent.folder_url)
    if problems := folder.verify():
        said = (
            f"the incumbent, version {incumbent.version}, has a damaged file: {problems[0]}; restore it, or roll back"
        )
        return None, [_not_compared(said)]
    fitted_on = pl.read_parquet(folder.path("parts.parquet")).filter(pl.col("split") == "train")["image_id"]
    fresh = (pl.col("part") == "test") & ~pl.col("image_id").is_in(fitted_on.implode())
    challenger = evidence.predictions.filter(fresh)
    if challenger.is_empty():
        return None, [
            _not_compared("the incumbent was fitted on every image of test, so that nothing compares the two fairly")
        ]
    try:
        classifier = classifier_of(desk, incumbent.folder_url)
    except LabelMapMismatch as error:
        cure = "what tells other classes apart is another model: give the experiment another name"
        return None, [
            _not_compared(f"the incumbent, version {incumbent.version}, knows other classes: {error}; {cure}")
        ]
    theirs = predictions_by(desk, classifier, challenger)
    comparison = compare(challenger, theirs, metric=desk.spec.metric)
    return comparison, compared(comparison, desk.spec.gate, desk.spec.metric)


def _not_compared(said: str) -> Finding:
    """The incumbent stays where nothing shows that the challenger loses no more than it may."""
    from platform_assets.vision.evaluation.gates import Finding

    return Finding(rule="max_regression", passed=False, measured=None, threshold=0, said=said, otherwise="kept")


def _approval(desk: Desk, candidate: Candidate, rule: ApprovalRule, approvals: Sequence[Approval]) -> Finding:
    from platform_assets.vision.evaluation.gates import Finding

    valid = [approval for approval in approvals if approval.name in rule.approvers]
    return Finding(
        rule="approval",
        passed=bool(valid),
        measured=len(valid),
        threshold=1,
        said=f"checkpoint {candidate.checkpoint.checkpoint_id} waits for the approval of {' or '.join(rule.approvers)}; "
        f"to give it: {approve_command('/'.join(desk.spec.key), candidate, rule)}",
        otherwise="held",
    )


def approve_command(experiment: str, candidate: Candidate, rule: ApprovalRule) -> str:
    """What an approver types; it names the checkpoint, so that no later one is approved by it."""
    import shlex

    words = ["kestrel", "promote", experiment, "--trial", candidate.trial]
    words += ["--checkpoint", candidate.checkpoint.checkpoint_id, "--approve", rule.approvers[0]]
    return shlex.join(words)
