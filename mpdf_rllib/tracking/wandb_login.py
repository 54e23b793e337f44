"""Prints why W&B cannot be logged into, or nothing.

A program of its own, as W&B's service at times never ends after a server that did not answer: a process that waits for
it, as each does at its end, would wait for ever. The service does end with a process that didn't wait.
"""

import os

import wandb

if __name__ == "__main__":
    try:
        problem = "" if wandb.login(prompt=False) else "there is no API key"
    except wandb.Error as error:
        problem = str(error)
    print(problem, flush=True)
    os._exit(0)
