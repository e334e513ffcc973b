"""Files in, vector files out, each row exactly once: the work of ``embedd bulk``.

A job is cut into *units*, ranges of rows of one input, and every unit becomes one *part*, a file
of the output that has its final name only once it is complete:

- `sources` finds the inputs, and `job.plan` cuts them into units: a function of inputs and options.
- `reading` reads the rows of a unit from a file of any format (`lines`, `delimited`,
  `documents`, `tables`), and `columns` says which columns are text, id, and carried along;
  `union` joins those of several inputs.
- `compute` has the interface to what computes, `Compute`, and the `Pool` that shares the requests
  among servers, waits for them and tries again; `unit` embeds the rows of a unit with it.
- `parts` writes the part of a unit, `folder` puts it into place, `ending` joins the parts.
- `remote` writes files of object stores, where `remote_folder` is what `folder` is on a disk, with
  a `lease` as its lock.
- `job` is the record of a job, and `opening` decides whether a command goes on with it.
- `runner` runs the units of a job in one process; `progress` counts. `stdin` has the units of a
  stream. `estimate` is for a dry run, `summary` for the end.

Files of requests, which a batch API has, are cut into ranges by the same scanner: `requests`
checks, reads and renders their lines, and `answering` has each answered, in order.

Another way to run a job (a batch API, a cluster) uses the same pieces: `Unit` values are plain
data, `read_units` gives each with its rows, `run_unit` embeds and commits one, and repeating
that is harmless.
"""
