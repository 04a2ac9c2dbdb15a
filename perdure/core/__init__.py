"""The pure mind of a run: standard library only, no clock, no randomness, no I/O.

Read in this order:

1. ``spec.py``        what a run is told once: limits, the rules of its tools
2. ``state.py``       what a run knows while it lives: the frozen ``RunState``
3. ``happenings.py``  what can happen to a run (the input of ``evolve``), orders from outside among it
4. ``actions.py``     what can be in flight for a run (the output of ``decide``)
5. ``decide.py``      ``decide(state, now)``: read top to bottom, the first line that applies wins;
   ``calls.py``       the same for the tool calls of a turn
6. ``evolve.py``      ``evolve(state, happening)``: the only place where anything changes;
   ``orders.py``      the same for orders from outside; ``outbox.py`` for events nobody else would write;
   ``handover.py``    what holds when another agent takes over
7. ``judge.py``       the verdict on each tool call a model asks for, by ``policy.py``
8. ``budget.py``      what a run may spend: reserve before a call, settle after it
9. ``transcript.py``  repair of a transcript before a model sees it

``keys.py`` names actions, ``numbers.py`` is sets of numbers as intervals, ``matching.py`` compares signals with waits.
"""
