"""Converts collected groups to micro-batches. The data pass through three types:

    Trajectory       the turns of one episode, as segments (`arlarena.proto.trajectory`)
        |            `scoring`: advantages over complete groups, then one sample for each turn or conversation
    TrainingSample   one sequence of tokens with its mask, its turns and their advantages (`packing`)
        |            `packing`: tokens that samples share are computed once
    MicroBatch       the tensors of one forward pass (`packing`)

A training sample is also called a row.
"""
