"""What would go wrong, found before it does: `shoal doctor`, and the few faults for which no worker starts.

One module for each thing that is looked at, all of one shape: facts as they were read, the look that reads them, and
`findings`, which says what they mean and does no I/O.
"""
