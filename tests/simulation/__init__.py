"""The money library under simulation: many workers, one store, one provider, all in one process and no time at all.

    python -m tests.simulation --seed 7 --schedules 2000
    python -m tests.simulation --mutations

Everything outside the library is scripted: the store is in memory, time is virtual, the provider answers by a script,
media work is stubbed. A seed decides every order, fault, death and answer, so that it reproduces what it found.
"""
