"""The gallery: a small read-only site of what was rendered, and the same pages as a folder."""
