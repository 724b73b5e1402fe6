"""Several processes that share the photos, as torchrun and `accelerate launch` start them."""

import datetime
import os
import sys

# PyTorch is imported where it is used, so that wrong usage answers at once.


def join_processes():
    """The number of this process, and how many share the photos, as torchrun and `accelerate launch` tell them."""
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        import torch

        # The quicker processes wait for the others at the end, however long that takes.
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=365))
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    return process, processes


def broadcast_from_main(find, process):
    """What `find()` gives in the first process, or the mistake that it finds, in all processes."""
    import torch

    if not torch.distributed.is_initialized():
        return find()
    answer = [None, None]
    if process == 0:
        try:
            answer[0] = find()
        except (ValueError, OSError) as error:
            answer[1] = error
    torch.distributed.broadcast_object_list(answer)
    found, error = answer
    if error and process == 0:
        raise error
    return sys.exit(1) if error else found


def gather_results(failed, done, processes):
    """What failed, and how many photos were captioned, in all processes."""
    if processes == 1:
        return failed, done
    import torch

    answers = [None] * processes
    torch.distributed.all_gather_object(answers, (failed, done))
    torch.distributed.destroy_process_group()
    return [one for answer in answers for one in answer[0]], sum(answer[1] for answer in answers)
