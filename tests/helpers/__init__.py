"""What several test modules share: data, models, slow references."""
