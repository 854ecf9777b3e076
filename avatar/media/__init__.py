"""Sound and picture: probing, preparing, splitting, stitching, inspecting.

Plain synchronous functions over PyAV, Pillow and numpy; callers run them in threads.
"""
