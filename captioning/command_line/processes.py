"""Captioning in several processes, started by torchrun or `accelerate launch`."""

import datetime
import os
import sys

# PyTorch is imported inside the functions, so that usage errors respond immediately.


def init_processes():
    """Set up communication between the processes. Returns the rank of this process and the number of processes."""
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        import torch

        # Faster processes wait for the others at the end, however long that takes.
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=365))
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    return process, processes


def broadcast_from_main(find, process, processes):
    """Call `find()` in the main process and return its result in all; exit in all if it raises."""
    if processes == 1:
        return find()
    import torch

    result = [None, None]
    if process == 0:
        try:
            result[0] = find()
        except (ValueError, OSError) as error:
            result[1] = error
    torch.distributed.broadcast_object_list(result)
    found, error = result
    if error and process == 0:
        raise error
    return sys.exit(1) if error else found


def gather_results(failed, done, processes):
    """The failures and the number of captioned photos of all processes."""
    if processes == 1:
        return failed, done
    import torch

    results = [None] * processes
    torch.distributed.all_gather_object(results, (failed, done))
    torch.distributed.destroy_process_group()
    return [failure for failures, _ in results for failure in failures], sum(done for _, done in results)
