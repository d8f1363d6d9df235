"""The stages as calls from Python: a request in, a result out. The command line parses, calls and prints; a notebook calls them as well.

from inceptionctl.stages.train import TrainRequest, train

run = train(TrainRequest("quickstart", settings=("data.root=photos",), cpu_ranks=1))
"""
