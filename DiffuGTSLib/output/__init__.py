"""What a result is written as: findings, masks and maps, the record of how they were made, a picture."""
