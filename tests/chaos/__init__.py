"""The chaos suite: the real command in processes of its own, killed, cut off and raced, and what it cost.

    python -m tests.chaos --seed 7 --kills 200
    python -m tests.chaos --only races --mutate plain-put

Real parts: the embedded store, a Prefect server, the provider sandbox. `witness` judges, from what the sandbox
counted and what lies in the store, without a line of the product's code.
"""
