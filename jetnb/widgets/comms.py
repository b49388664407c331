"""What a widget sends while a cell runs.

It waits until the cell ends: also with ipykernel 7.4, which has threads for it ("subshells") but
hands what is meant for a widget to the thread that made the widget, the busy one. `handle_pending`,
called from the cell, looks there.
"""

from __future__ import annotations

import asyncio
import threading

from IPython import get_ipython


def handle_pending(comm) -> None:
    """Handle what the browser has sent to `comm`; the rest that waits is put in line again, in its
    order.

    Does nothing without a kernel, or in another thread than the main one.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or threading.current_thread() is not threading.main_thread():
        return
    import zmq

    # Ipykernel 7: what came on from that thread.
    if shell := getattr(kernel, "shell_channel_thread", None):
        stream = shell.manager.get_shell_channel_to_subshell_pair(None).to_stream
    else:
        stream = kernel.shell_stream
    while stream is not None:
        try:
            frames = stream.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        if _is_for(comm, kernel.session, frames):
            idents, parts = kernel.session.feed_identities(frames, copy=False)
            kernel.comm_manager.comm_msg(
                stream, idents, kernel.session.deserialize(parts, copy=False)
            )
        elif shell:
            asyncio.get_running_loop().create_task(kernel.shell_main(None, frames))
        else:
            kernel.schedule_dispatch(kernel.dispatch_shell, frames)


def _is_for(comm, session, frames) -> bool:
    """Whether a message is for `comm`, without its signature being used up: each may be read but
    once.
    """
    _, parts = session.feed_identities(frames, copy=False)
    if len(parts) < 5 or session.unpack(parts[1].bytes).get("msg_type") != "comm_msg":
        return False
    return session.unpack(parts[4].bytes).get("comm_id") == comm.comm_id
