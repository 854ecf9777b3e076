"""A stand-in for fal's queue API and the Pixazo gateway: a real HTTP server, at no cost.

It answers as the providers' pages say they answer, downloads and decodes what it is given, returns a real
MP4 with the real voice, records every request, and misbehaves on request (see `misdeeds`).

    python -m tests.sandbox --render-seconds 3
"""
