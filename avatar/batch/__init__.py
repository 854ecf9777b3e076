"""Many jobs from one manifest: read, checked and priced as a whole, then carried out a bounded number at a time."""
