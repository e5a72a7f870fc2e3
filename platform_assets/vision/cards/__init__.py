"""What is written about a dataset or a model for people: cards, the profile page, licences."""
