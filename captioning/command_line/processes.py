"""Captioning in several processes, started by torchrun or `accelerate launch`."""

import datetime
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from modeling_captioner.cores import thread_count

# Accelerate and PyTorch are imported inside the functions, so that usage errors respond immediately.

Result = TypeVar("Result")


def init_processes() -> tuple[int, int]:
    """Set up communication between the processes. Returns the rank of this process and the number of processes."""
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(thread_count())  # Accelerate reads it as one number
        import torch
        from accelerate import PartialState

        # `cpu`, because several processes may share a GPU. The faster wait for the others, however long that takes.
        state = PartialState(cpu=True, timeout=datetime.timedelta(days=365))
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(state.local_process_index)
    return process, processes


def broadcast_from_main(find: Callable[[], Result], process: int, processes: int) -> Result:
    """Call `find()` in the main process and return its result in all; exit in all if it raises."""
    if processes == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    result: list = [None, None]
    if process == 0:
        try:
            result[0] = find()
        except (ValueError, OSError) as error:
            result[1] = error
    found, problem = broadcast_object_list(result)
    if problem and process == 0:
        raise problem
    return sys.exit(1) if problem else found


def gather_results(failed: list[tuple], done: int, processes: int) -> tuple[list[tuple], int]:
    """The failures and the number of captioned photos of all processes."""
    if processes == 1:
        return failed, done
    from accelerate import PartialState
    from accelerate.utils import gather_object

    failed, done = gather_object(failed), sum(gather_object([done]))
    PartialState().destroy_process_group()
    return failed, done
