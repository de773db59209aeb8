"""What this project trains itself, from nothing but packages that anyone can fetch."""
