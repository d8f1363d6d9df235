"""TF-slim's networks in TensorFlow's own operations, run in a process of its own: images in, logits and checkpoints out.

Written from the scopes, channels, kernels and paddings of research/slim/nets, not from our networks: an independent reference.
Variables come into being as a pass meets them; a norm's moving statistics are those of the pass, so its logits are inference's.

    python slim_process.py IMAGES.npy FOLDER
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

NUM_CLASSES = 1001
EPSILON = 0.001


class Net:
    """Variables by name, made at their first use."""

    def __init__(self, scope, seed):
        self.scope, self.variables, self.rng = scope, {}, np.random.default_rng(seed)

    def variable(self, name, value):
        name = f"{self.scope}/{name}"
        assert name not in self.variables, name
        self.variables[name] = np.asarray(value, np.float32)
        return self.variables[name]

    def conv(self, x, scope, channels, kernel, stride=1, padding="SAME", norm=True):
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        shape = (height, width, x.shape[-1], channels)
        weights = self.variable(f"{scope}/weights", self.rng.normal(0, np.prod(shape[:3]) ** -0.5, shape))
        y = tf.nn.conv2d(x, weights, stride, padding)
        if not norm:
            return y + self.variable(f"{scope}/biases", self.rng.normal(0, 0.1, channels))
        mean, variance = (np.asarray(value) for value in tf.nn.moments(y, (0, 1, 2)))
        beta = self.variable(f"{scope}/BatchNorm/beta", self.rng.uniform(0.8, 1.2, channels))
        mean = self.variable(f"{scope}/BatchNorm/moving_mean", mean)
        variance = self.variable(f"{scope}/BatchNorm/moving_variance", variance)
        return tf.nn.relu(tf.nn.batch_normalization(y, mean, variance, beta, None, EPSILON))

    def chain(self, x, scope, *layers):
        """(name, channels, kernel, [stride, padding]) one after the other."""
        for name, *rest in layers:
            x = self.conv(x, f"{scope}/{name}", *rest)
        return x

    def dense(self, x, scope):
        """Scaled so that logits differ between images by one or two."""
        weights = self.rng.normal(0, 1, (x.shape[-1], NUM_CLASSES))
        weights *= 0.5 / (np.std(np.asarray(x) @ weights, 0) + 1e-6)
        weights = self.variable(f"{scope}/weights", weights)
        return x @ weights + self.variable(f"{scope}/biases", self.rng.normal(0, 1, NUM_CLASSES))


def average(x):
    return tf.nn.avg_pool2d(x, 3, 1, "SAME")


def largest(x):
    return tf.nn.max_pool2d(x, 3, 2, "VALID")


def concat(*parts):
    return tf.concat(parts, 3)


V2 = (2, "VALID")


def inception_v4(net, x):
    x = net.conv(x, "Conv2d_1a_3x3", 32, 3, *V2)
    x = net.conv(x, "Conv2d_2a_3x3", 32, 3, 1, "VALID")
    x = net.conv(x, "Conv2d_2b_3x3", 64, 3)
    x = concat(largest(x), net.conv(x, "Mixed_3a/Branch_1/Conv2d_0a_3x3", 96, 3, *V2))
    x = concat(
        net.chain(x, "Mixed_4a/Branch_0", ("Conv2d_0a_1x1", 64, 1), ("Conv2d_1a_3x3", 96, 3, 1, "VALID")),
        net.chain(
            x,
            "Mixed_4a/Branch_1",
            ("Conv2d_0a_1x1", 64, 1),
            ("Conv2d_0b_1x7", 64, (1, 7)),
            ("Conv2d_0c_7x1", 64, (7, 1)),
            ("Conv2d_1a_3x3", 96, 3, 1, "VALID"),
        ),
    )
    x = concat(net.conv(x, "Mixed_5a/Branch_0/Conv2d_1a_3x3", 192, 3, *V2), largest(x))
    for s in ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_5e"):
        x = concat(
            net.conv(x, f"{s}/Branch_0/Conv2d_0a_1x1", 96, 1),
            net.chain(x, f"{s}/Branch_1", ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3)),
            net.chain(x, f"{s}/Branch_2", ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)),
            net.conv(average(x), f"{s}/Branch_3/Conv2d_0b_1x1", 96, 1),
        )
    x = concat(
        net.conv(x, "Mixed_6a/Branch_0/Conv2d_1a_3x3", 384, 3, *V2),
        net.chain(x, "Mixed_6a/Branch_1", ("Conv2d_0a_1x1", 192, 1), ("Conv2d_0b_3x3", 224, 3), ("Conv2d_1a_3x3", 256, 3, *V2)),
        largest(x),
    )
    for s in (f"Mixed_6{letter}" for letter in "bcdefgh"):
        x = concat(
            net.conv(x, f"{s}/Branch_0/Conv2d_0a_1x1", 384, 1),
            net.chain(
                x,
                f"{s}/Branch_1",
                ("Conv2d_0a_1x1", 192, 1),
                ("Conv2d_0b_1x7", 224, (1, 7)),
                ("Conv2d_0c_7x1", 256, (7, 1)),
            ),
            net.chain(
                x,
                f"{s}/Branch_2",
                ("Conv2d_0a_1x1", 192, 1),
                ("Conv2d_0b_7x1", 192, (7, 1)),
                ("Conv2d_0c_1x7", 224, (1, 7)),
                ("Conv2d_0d_7x1", 224, (7, 1)),
                ("Conv2d_0e_1x7", 256, (1, 7)),
            ),
            net.conv(average(x), f"{s}/Branch_3/Conv2d_0b_1x1", 128, 1),
        )
    middle = x
    x = concat(
        net.chain(x, "Mixed_7a/Branch_0", ("Conv2d_0a_1x1", 192, 1), ("Conv2d_1a_3x3", 192, 3, *V2)),
        net.chain(
            x,
            "Mixed_7a/Branch_1",
            ("Conv2d_0a_1x1", 256, 1),
            ("Conv2d_0b_1x7", 256, (1, 7)),
            ("Conv2d_0c_7x1", 320, (7, 1)),
            ("Conv2d_1a_3x3", 320, 3, *V2),
        ),
        largest(x),
    )
    for s in ("Mixed_7b", "Mixed_7c", "Mixed_7d"):
        one = net.conv(x, f"{s}/Branch_1/Conv2d_0a_1x1", 384, 1)
        two = net.chain(
            x,
            f"{s}/Branch_2",
            ("Conv2d_0a_1x1", 384, 1),
            ("Conv2d_0b_3x1", 448, (3, 1)),
            ("Conv2d_0c_1x3", 512, (1, 3)),
        )
        x = concat(
            net.conv(x, f"{s}/Branch_0/Conv2d_0a_1x1", 256, 1),
            net.conv(one, f"{s}/Branch_1/Conv2d_0b_1x3", 256, (1, 3)),
            net.conv(one, f"{s}/Branch_1/Conv2d_0c_3x1", 256, (3, 1)),
            net.conv(two, f"{s}/Branch_2/Conv2d_0d_1x3", 256, (1, 3)),
            net.conv(two, f"{s}/Branch_2/Conv2d_0e_3x1", 256, (3, 1)),
            net.conv(average(x), f"{s}/Branch_3/Conv2d_0b_1x1", 256, 1),
        )
    aux_head(net, middle, "Conv2d_2a", "Aux_logits")
    return net.dense(tf.reduce_mean(x, (1, 2)), "Logits/Logits")


def aux_head(net, x, grid, logits):
    x = tf.image.resize(x, (17, 17))  # its last kernel is as large as what 299 px leave
    x = tf.nn.avg_pool2d(x, 5, 3, "VALID")
    x = net.conv(x, "AuxLogits/Conv2d_1b_1x1", 128, 1)
    x = net.conv(x, f"AuxLogits/{grid}", 768, x.shape[1], 1, "VALID")
    net.dense(tf.reshape(x, (len(x), -1)), f"AuxLogits/{logits}")


def inception_v3(net, x):
    x = net.conv(x, "Conv2d_1a_3x3", 32, 3, *V2)
    x = net.conv(x, "Conv2d_2a_3x3", 32, 3, 1, "VALID")
    x = largest(net.conv(x, "Conv2d_2b_3x3", 64, 3))
    x = net.conv(x, "Conv2d_3b_1x1", 80, 1)
    x = largest(net.conv(x, "Conv2d_4a_3x3", 192, 3, 1, "VALID"))
    for s, pool, five in (
        ("Mixed_5b", 32, ("Conv2d_0a_1x1", "Conv2d_0b_5x5")),
        ("Mixed_5c", 64, ("Conv2d_0b_1x1", "Conv_1_0c_5x5")),
        ("Mixed_5d", 64, ("Conv2d_0a_1x1", "Conv2d_0b_5x5")),
    ):
        x = concat(
            net.conv(x, f"{s}/Branch_0/Conv2d_0a_1x1", 64, 1),
            net.chain(x, f"{s}/Branch_1", (five[0], 48, 1), (five[1], 64, 5)),
            net.chain(x, f"{s}/Branch_2", ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)),
            net.conv(average(x), f"{s}/Branch_3/Conv2d_0b_1x1", pool, 1),
        )
    x = concat(
        net.conv(x, "Mixed_6a/Branch_0/Conv2d_1a_1x1", 384, 3, *V2),
        net.chain(x, "Mixed_6a/Branch_1", ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_1a_1x1", 96, 3, *V2)),
        largest(x),
    )
    for s, n in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = concat(
            net.conv(x, f"{s}/Branch_0/Conv2d_0a_1x1", 192, 1),
            net.chain(
                x, f"{s}/Branch_1", ("Conv2d_0a_1x1", n, 1), ("Conv2d_0b_1x7", n, (1, 7)), ("Conv2d_0c_7x1", 192, (7, 1))
            ),
            net.chain(
                x,
                f"{s}/Branch_2",
                ("Conv2d_0a_1x1", n, 1),
                ("Conv2d_0b_7x1", n, (7, 1)),
                ("Conv2d_0c_1x7", n, (1, 7)),
                ("Conv2d_0d_7x1", n, (7, 1)),
                ("Conv2d_0e_1x7", 192, (1, 7)),
            ),
            net.conv(average(x), f"{s}/Branch_3/Conv2d_0b_1x1", 192, 1),
        )
    middle = x
    x = concat(
        net.chain(x, "Mixed_7a/Branch_0", ("Conv2d_0a_1x1", 192, 1), ("Conv2d_1a_3x3", 320, 3, *V2)),
        net.chain(
            x,
            "Mixed_7a/Branch_1",
            ("Conv2d_0a_1x1", 192, 1),
            ("Conv2d_0b_1x7", 192, (1, 7)),
            ("Conv2d_0c_7x1", 192, (7, 1)),
            ("Conv2d_1a_3x3", 192, 3, *V2),
        ),
        largest(x),
    )
    for s, odd in (("Mixed_7b", "Conv2d_0b_3x1"), ("Mixed_7c", "Conv2d_0c_3x1")):
        one = net.conv(x, f"{s}/Branch_1/Conv2d_0a_1x1", 384, 1)
        two = net.chain(x, f"{s}/Branch_2", ("Conv2d_0a_1x1", 448, 1), ("Conv2d_0b_3x3", 384, 3))
        x = concat(
            net.conv(x, f"{s}/Branch_0/Conv2d_0a_1x1", 320, 1),
            net.conv(one, f"{s}/Branch_1/Conv2d_0b_1x3", 384, (1, 3)),
            net.conv(one, f"{s}/Branch_1/{odd}", 384, (3, 1)),
            net.conv(two, f"{s}/Branch_2/Conv2d_0c_1x3", 384, (1, 3)),
            net.conv(two, f"{s}/Branch_2/Conv2d_0d_3x1", 384, (3, 1)),
            net.conv(average(x), f"{s}/Branch_3/Conv2d_0b_1x1", 192, 1),
        )
    aux_head(net, middle, "Conv2d_2a_5x5", "Conv2d_2b_1x1")
    logits = net.dense(tf.reduce_mean(x, (1, 2)), "Logits/Conv2d_1c_1x1")
    for name in ("AuxLogits/Conv2d_2b_1x1", "Logits/Conv2d_1c_1x1"):  # both are convolutions
        weights = f"{net.scope}/{name}/weights"
        net.variables[weights] = net.variables[weights][None, None]
    return logits


def residual(net, x, scope, branches, scale, activation=True):
    up = net.conv(concat(*branches), f"{scope}/Conv2d_1x1", x.shape[-1], 1, norm=False)
    x = x + scale * up
    return tf.nn.relu(x) if activation else x


def block8(net, x, s, scale, activation=True):
    branches = (
        net.conv(x, f"{s}/Branch_0/Conv2d_1x1", 192, 1),
        net.chain(
            x, f"{s}/Branch_1", ("Conv2d_0a_1x1", 192, 1), ("Conv2d_0b_1x3", 224, (1, 3)), ("Conv2d_0c_3x1", 256, (3, 1))
        ),
    )
    return residual(net, x, s, branches, scale, activation)


def inception_resnet_v2(net, x):
    x = net.conv(x, "Conv2d_1a_3x3", 32, 3, *V2)
    x = net.conv(x, "Conv2d_2a_3x3", 32, 3, 1, "VALID")
    x = largest(net.conv(x, "Conv2d_2b_3x3", 64, 3))
    x = net.conv(x, "Conv2d_3b_1x1", 80, 1)
    x = largest(net.conv(x, "Conv2d_4a_3x3", 192, 3, 1, "VALID"))
    x = concat(
        net.conv(x, "Mixed_5b/Branch_0/Conv2d_1x1", 96, 1),
        net.chain(x, "Mixed_5b/Branch_1", ("Conv2d_0a_1x1", 48, 1), ("Conv2d_0b_5x5", 64, 5)),
        net.chain(x, "Mixed_5b/Branch_2", ("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)),
        net.conv(average(x), "Mixed_5b/Branch_3/Conv2d_0b_1x1", 64, 1),
    )
    for s in (f"Repeat/block35_{i}" for i in range(1, 11)):
        branches = (
            net.conv(x, f"{s}/Branch_0/Conv2d_1x1", 32, 1),
            net.chain(x, f"{s}/Branch_1", ("Conv2d_0a_1x1", 32, 1), ("Conv2d_0b_3x3", 32, 3)),
            net.chain(x, f"{s}/Branch_2", ("Conv2d_0a_1x1", 32, 1), ("Conv2d_0b_3x3", 48, 3), ("Conv2d_0c_3x3", 64, 3)),
        )
        x = residual(net, x, s, branches, 0.17)
    x = concat(
        net.conv(x, "Mixed_6a/Branch_0/Conv2d_1a_3x3", 384, 3, *V2),
        net.chain(x, "Mixed_6a/Branch_1", ("Conv2d_0a_1x1", 256, 1), ("Conv2d_0b_3x3", 256, 3), ("Conv2d_1a_3x3", 384, 3, *V2)),
        largest(x),
    )
    for s in (f"Repeat_1/block17_{i}" for i in range(1, 21)):
        branches = (
            net.conv(x, f"{s}/Branch_0/Conv2d_1x1", 192, 1),
            net.chain(
                x, f"{s}/Branch_1", ("Conv2d_0a_1x1", 128, 1), ("Conv2d_0b_1x7", 160, (1, 7)), ("Conv2d_0c_7x1", 192, (7, 1))
            ),
        )
        x = residual(net, x, s, branches, 0.10)
    aux_head(net, x, "Conv2d_2a_5x5", "Logits")
    x = concat(
        net.chain(x, "Mixed_7a/Branch_0", ("Conv2d_0a_1x1", 256, 1), ("Conv2d_1a_3x3", 384, 3, *V2)),
        net.chain(x, "Mixed_7a/Branch_1", ("Conv2d_0a_1x1", 256, 1), ("Conv2d_1a_3x3", 288, 3, *V2)),
        net.chain(x, "Mixed_7a/Branch_2", ("Conv2d_0a_1x1", 256, 1), ("Conv2d_0b_3x3", 288, 3), ("Conv2d_1a_3x3", 320, 3, *V2)),
        largest(x),
    )
    for i in range(1, 10):
        x = block8(net, x, f"Repeat_2/block8_{i}", 0.20)
    x = block8(net, x, "Block8", 1.0, activation=False)
    x = net.conv(x, "Conv2d_7b_1x1", 1536, 1)
    return net.dense(tf.reduce_mean(x, (1, 2)), "Logits/Logits")


NETWORKS = {
    "inception_v3": (inception_v3, "InceptionV3"),
    "inception_v4": (inception_v4, "InceptionV4"),
    "inception_resnet_v2": (inception_resnet_v2, "InceptionResnetV2"),
}


def save(file, variables, version):
    """The operations that TF-slim's training saves with, of the old format (V1) and the new (V2)."""
    names, tensors = list(variables), [tf.constant(value) for value in variables.values()]
    if version == "V1":
        tf.raw_ops.Save(filename=str(file), tensor_names=names, data=tensors)
    else:
        tf.raw_ops.SaveV2(prefix=str(file), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)


def main(images, folder):
    x = tf.constant(np.load(images).transpose(0, 2, 3, 1))
    for seed, (name, (build, scope)) in enumerate(NETWORKS.items()):
        net = Net(scope, seed)
        np.save(folder / f"{name}.npy", np.asarray(build(net, x))[:, 1:])
        save(folder / f"{name}.ckpt", net.variables, "V1")
        if name == "inception_v3":  # a training checkpoint: the same values are the averages, the last weights differ
            shadows = {f"{key}/ExponentialMovingAverage": value for key, value in net.variables.items()}
            last = {key: value + 1.0 for key, value in net.variables.items()}
            slots = {f"{key}/RMSProp": value for key, value in net.variables.items() if key.endswith("weights")}
            save(folder / "training.ckpt-7", {**last, **shadows, **slots, "global_step": np.asarray(7, np.int64)}, "V2")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
