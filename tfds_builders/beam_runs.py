"""The two steps of a build on Apache Beam: reading the images, writing the records.

For clusters. Workers hand over finished images as files, as the processes of an
ordinary build do, so they must see the data folder under the same path, and a build
that was interrupted goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mammo_jax.common.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def make_beam_options(options: Sequence[str]) -> Any:
    """Beam's own `PipelineOptions`.

    Raises:
      UserError: Apache Beam is not installed.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "Apache Beam is not installed; install it into an environment of its own"
            " with `pip install 'mammo-jax[beam]'`"
        ) from error
    return PipelineOptions(list(options))


def beam_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    options: Sequence[str],
    on_death: Callable[[Task], Result] | None = None,
) -> Iterator[Result]:
    """Yields `function(task)` in the order of `tasks`, worked out on Beam.

    Args:
      function: leaves its work where calling it again finds it, and returns where.
      tasks: arguments of the calls.
      options: the options of the pipeline.
      on_death: not called: Beam itself repeats what kills a worker, then gives up.

    Raises:
      UserError: Apache Beam is not installed.
    """
    pipeline_options = make_beam_options(options)
    import apache_beam as beam

    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = (
            pipeline
            | "views" >> beam.Create(list(tasks))
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.Map(_call, function)
        )
    yield from map(function, tasks)


def _call(task: Any, function: Callable[[Any], Any]) -> Any:
    """Hides the types from Beam, which would understand them in its own way."""
    return function(task)


def beam_records(
    read: Callable[[Path], Iterator[tuple[str, dict[str, Any]]]], paths: Sequence[Path]
) -> Any:
    """The transform of a split's files into keys and examples."""
    import apache_beam as beam

    return beam.Create(list(paths)) | beam.Reshuffle() | beam.FlatMap(_call, read)
