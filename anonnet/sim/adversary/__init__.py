"""What an adversary who runs some of the relays gets in a month, with and without what limits it.

`month` plays thousands of callers against one; `theory` has the closed forms that it is checked against and
those that need no playing; `figures` draws both for docs/adversary.md, which explains the model:

    python -m anonnet.sim.adversary --plot docs/img

Needs numpy (extra `lab`), and matplotlib to draw (extra `plot`).
"""
