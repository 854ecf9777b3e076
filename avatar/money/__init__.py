"""A render's life: the one paid request, the wait, and bringing the video home. No step here can pay twice."""
