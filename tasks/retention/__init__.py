"""What is deleted after the days that the user set, and what never is."""
