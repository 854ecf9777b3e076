"""What the project costs in time, requests and CPU, beside fal's own client against the same stand-in provider.

    python -m benchmarks [NAME ...] [--full]

The numbers aimed at are printed beside those measured; none is asserted, since they are this machine's, on this day.
"""
