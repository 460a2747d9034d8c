"""The project's benchmarks: `python -m mtlref.bench [CASE …] [--peers] [--json FILE] [--plot FILE]`.

A case has setups (sizes); a setup has contenders that compute one thing in their own ways: mtlref, other libraries
where they are installed, the best NumPy that a hand writes, and the *bound*, which does the bare operations that
none of them can leave out. All of a setup's contenders are measured together, in one process, their turns interleaved
in an order that is drawn anew every round. What is told is ratios: to the bound, and to each other contender.

- `measure` takes the times, after it has compared what the contenders return.
- `machine` says where: versions, processor, BLAS kernel; it sets the number of threads.
- `cases` has a module a case; `peers` knows the other libraries.
- `report` prints the tables, writes the JSON, draws the plot.

No test of the project depends on a time.
"""
