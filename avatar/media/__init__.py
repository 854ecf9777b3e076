"""Sound and picture: probing, preparing, splitting, stitching, inspecting.

Plain synchronous functions over PyAV, Pillow and numpy, which run in the process that decodes. Others ask for them
through `avatar.media.decoder_calls`, in threads.
"""
