"""What a large extraction will take, before anything is bought."""
