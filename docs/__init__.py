"""What is written about the project, and what makes the part of it that can be made."""
