"""Processes that a test starts to have them killed."""

import multiprocessing


def forks():
    """Context of processes forked from a server that has imported torch and computed nothing.

    One that has computed must not be forked: its OpenMP threads are not in the child, which waits for them forever.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transporter_pl.datamodules.encode"])
    return context
