"""Other programs' names of keys and values: what timm, torchvision, torchtune, Lightning and DeepSpeed call what a recipe calls otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from inceptionctl.augmentations import AUGMENTATIONS

# What is looked up is in lower case, with _ for - and without a leading --.
_KEYS: dict[str, tuple[str, ...]] = {
    "train.global_batch_size": ("batch_size", "batch", "bs", "b", "train_batch_size", "total_batch_size"),
    "train.micro_batch_size": (
        *("micro_batch", "train_micro_batch_size_per_gpu", "per_device_batch_size", "per_device_train_batch_size"),
        *("batch_size_per_gpu", "per_gpu_batch_size"),
    ),
    "train.epochs": ("num_epochs", "max_epochs", "num_train_epochs", "n_epochs"),
    "train.max_steps": ("num_steps", "total_steps", "train_steps", "num_train_steps", "max_train_steps", "max_iters", "steps"),
    "train.seed": ("random_seed", "manual_seed", "seed_everything"),
    "train.precision": ("amp", "amp_dtype", "amp_impl", "dtype", "mixed_precision", "fp16", "bf16", "fp32", "half", "autocast"),
    "train.progressive_resizing": (
        *(
            "progressive_resize",
            "progressive_image_resizing",
            "progressive_px",
            "train_px",
            "train_img_size",
            "input_px_by_epoch",
        ),
        *("min_res", "max_res", "initial_scale"),
    ),
    "train.tf32": ("allow_tf32", "fast_norm"),
    "train.zero_stage": ("zero", "zero_optimization", "stage", "sharding"),
    "train.compile": ("torchcompile", "torch_compile", "compile_model"),
    "train.label_smoothing": ("smoothing", "labelsmoothing", "label_smooth", "label_smoothing_factor"),
    "train.stop_when.patience_epochs": ("early_stopping", "early_stopping_patience", "early_stop", "patience"),
    "train.class_weights": ("class_weight", "loss_weights", "cls_weights", "bce_pos_weight", "pos_weight"),
    "train.aux_loss_weight": ("aux_weight", "aux_loss", "aux_loss_ratio"),
    "train.ema_decay": ("ema", "model_ema", "model_ema_decay", "ema_rate", "moving_average_decay"),
    "train.log_every_steps": (
        *("log_interval", "log_every_n_steps", "logging_steps", "steps_per_print", "print_freq", "log_every"),
        "log_freq",
    ),
    "train.collective_timeout_seconds": ("timeout", "dist_timeout", "nccl_timeout"),
    "model.name": ("arch", "architecture", "network", "backbone", "model_name", "net"),
    "model.num_classes": ("classes", "nb_classes", "n_classes", "number_of_classes", "num_labels"),
    "model.input_px": (
        *("img_size", "image_size", "input_size", "imgsz", "img_sz", "resolution", "crop_size", "train_crop_size", "px"),
        "train_res",
    ),
    "model.width": ("width_mult", "width_multiplier", "depth_multiplier", "channel_multiplier"),
    "model.drop_path": ("drop_path_rate", "stochastic_depth", "stochastic_depth_prob"),
    "model.dropout": ("drop", "drop_rate", "dropout_rate", "dropout_prob"),
    "model.batch_norm_momentum": ("bn_momentum", "batchnorm_momentum"),
    "model.batch_norm_eps": ("bn_eps", "batchnorm_eps", "batch_norm_epsilon", "bn_epsilon"),
    "model.aux_head": ("aux_logits", "aux", "auxiliary_head", "auxiliary"),
    "model.init_from": (
        *("pretrained", "initial_checkpoint", "pretrained_path", "finetune", "fine_tune_from", "init_checkpoint"),
        *("load_from", "checkpoint_path"),
    ),
    "model.freeze": ("frozen", "freeze_layers", "frozen_layers", "freeze_backbone", "trainable_scopes"),
    "model.unfreeze": (
        *(
            "gradual_unfreezing",
            "unfreeze_epoch",
            "unfreeze_epochs",
            "unfreeze_at_epoch",
            "unfreeze_milestones",
            "unfreeze_schedule",
        ),
        *("unfreeze_backbone_at_epoch", "freeze_epochs", "freeze_backbone_epochs"),
    ),
    "optim.name": ("opt", "optimizer", "optimiser", "optimizer_name"),
    "optim.weight_decay": ("wd", "weightdecay", "decay_weight", "l2"),
    "optim.momentum": ("mom",),
    "optim.epsilon": ("eps", "opt_eps", "adam_epsilon"),
    "optim.betas": ("opt_betas", "beta", "beta1", "beta2", "adam_betas"),
    "optim.decay": ("rho", "alpha", "rmsprop_decay"),
    "optim.clip_global_norm": (
        *("clip_grad", "clip_norm", "grad_clip", "gradient_clip", "gradient_clipping", "clip_grad_norm", "max_grad_norm"),
        *("gradient_clip_val", "grad_norm_clip", "max_norm"),
    ),
    "optim.clip_agc": ("agc", "clip_mode", "adaptive_clipping"),
    "schedule.name": ("sched", "scheduler", "lr_scheduler", "lr_schedule", "lr_policy"),
    "schedule.base_lr": ("lr", "lr_base", "learning_rate", "initial_lr", "max_lr", "peak_lr", "init_lr"),
    "schedule.final_lr": ("min_lr", "end_lr", "eta_min", "lr_min", "final_learning_rate"),
    "schedule.factor": ("decay_rate", "gamma", "lr_gamma", "lr_decay", "learning_rate_decay_factor"),
    "schedule.every_epochs": ("decay_epochs", "lr_step_size", "step_size", "num_epochs_per_decay"),
    "schedule.warmup_epochs": ("warmup", "lr_warmup_epochs", "num_warmup_epochs", "warmup_steps", "num_warmup_steps"),
    "schedule.warmup_factor": ("warmup_ratio", "lr_warmup_decay", "lr_warmup_method", "warmup_method", "warmup_lr"),
    "data.root": ("data_dir", "data_path", "dataset", "dataset_path", "dataset_dir", "imagenet_dir", "train_dir", "folder"),
    "data.num_threads": ("workers", "num_workers", "j", "threads", "num_cpu_workers", "dataloader_num_workers"),
    "data.class_names": ("class_map", "classes_file", "labels_file"),
    "data.group_by_column": ("group_column", "group_col", "groups", "patient_column", "patient_id", "group_key"),
    "data.val_fraction": ("validation_split", "val_split", "val_ratio", "val_pct", "test_size", "val_size", "split_ratio"),
    "data.sampling": ("sampler", "oversample", "oversampling", "weighted_sampler", "balanced_sampling", "class_balanced"),
    "data.augment.crop_area": ("scale", "random_resized_crop_scale", "area_range"),
    "data.augment.crop_aspect": ("ratio", "aspect_ratio", "aspect_ratio_range"),
    "data.augment.horizontal_flip": ("hflip", "flip", "random_flip", "random_horizontal_flip"),
    "data.augment.vertical_flip": ("vflip", "random_vertical_flip"),
    "data.augment.resize_filters": ("train_interpolation",),
    "data.augment.hue_degrees": ("hue",),
    "data.augment.mix.mixup_alpha": ("mixup",),
    "data.augment.mix.cutmix_alpha": ("cutmix",),
    "data.augment.mix.probability": ("mixup_prob",),
    "data.augment.mix.cutmix_probability": ("mixup_switch_prob",),
    "data.augment.mix.until_epoch": ("mixup_off_epoch",),
    "data.augment.auto_augment.policy": ("aa", "autoaugment", "randaugment", "trivial_augment", "trivialaugment"),
    "data.augment.repeats": ("aug_repeats", "ra_reps", "ra_sampler", "repeated_aug", "repeated_augmentation"),
    "data.augment.grayscale.probability": ("grayscale_prob", "random_grayscale"),
    "data.augment.random_erasing.probability": ("reprob", "random_erase", "random_erasing_prob", "random_erase_prob"),
    "evaluate.interpolation": ("val_interpolation", "test_interpolation"),
    "evaluate.central_fraction": ("crop_pct", "crop_ratio", "center_crop"),
    "evaluate.batch_size": (
        *("validation_batch_size", "val_batch_size", "vb", "eval_batch_size", "test_batch_size"),
        "per_device_eval_batch_size",
    ),
    "evaluate.checkpoint": ("load_best_model_at_end", "restore_best_weights", "ckpt_path", "load_best", "eval_checkpoint"),
    "evaluate.every_epochs": ("val_interval", "eval_every", "eval_interval", "val_every", "check_val_every_n_epoch"),
    "log.wandb.enabled": ("wandb", "log_wandb", "use_wandb", "report_to"),
    "log.wandb.project": ("wandb_project",),
    "log.mlflow.enabled": ("mlflow", "log_mlflow", "use_mlflow"),
    "log.mlflow.experiment": ("experiment_name", "mlflow_experiment", "mlflow_experiment_name"),
    "checkpoint.keep_last": ("checkpoint_hist", "save_total_limit", "max_to_keep", "keep_checkpoint_max", "save_top_k"),
    "checkpoint.every_steps": ("recovery_interval", "save_steps", "save_every_steps", "checkpoint_every", "save_interval"),
    "checkpoint.every_epochs": ("save_every", "save_freq", "save_every_epochs"),
}
# Keys of other programs that are no keys here, and what to do instead.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "the number of ranks is an option of the command: --gpus N or --cpu-ranks N": (
        *("gpus", "num_gpus", "gpu", "devices", "world_size", "nproc_per_node", "num_nodes", "device", "accelerator"),
    ),
    "it is computed: train.global_batch_size / (ranks x train.micro_batch_size)": (
        *("grad_accum_steps", "gradient_accumulation_steps", "accumulation_steps", "grad_accum", "accumulate_grad_batches"),
    ),
    "the run directory is an option of the command: --output DIR": ("output", "output_dir", "log_dir", "save_dir", "run_dir"),
    "resuming is an option of the command: --resume auto|never|PATH": ("resume", "resume_from", "resume_from_checkpoint"),
    "data.augment has brightness, contrast, saturation and hue_degrees, each a key of its own": ("color_jitter", "jitter"),
    f"there is none: `data.augment` has crops, flips, colors, {', '.join(AUGMENTATIONS)}": ("aug_splits",),
    "DeepSpeed's configuration is derived from the recipe: `train --dry-run` prints it": ("deepspeed", "deepspeed_config"),
}
KEY_OF = {name: key for key, names in _KEYS.items() for name in names}
INSTEAD_OF = {name: words for words, names in _ELSEWHERE.items() for name in names}


def known_elsewhere(name: str, keys: Sequence[str]) -> str | None:
    """A hint for a key that is none of ours: the key of `keys` (all, dotted) that means it or ends alike, or what to do; None else."""
    plain = name.lower().replace("-", "_").lstrip("_")
    alike = [key for key in keys if key.rpartition(".")[2] == plain]
    if plain in KEY_OF:
        own = KEY_OF[plain]
        return f"it is `{own}` here" + _REMARKS.get(own, "")
    if plain in INSTEAD_OF:
        return INSTEAD_OF[plain]
    return f"it is {' or '.join(f'`{key}`' for key in alike)}" if alike else None


_REMARKS = {
    "train.global_batch_size": ", of all ranks together; `train.micro_batch_size` is the batch size of a forward pass",
    "train.precision": ": auto, fp32 or bf16",
    "optim.clip_global_norm": "; if it is null, `optim.clip_agc` applies",
    "optim.clip_agc": ": a factor, 0 for none",
    "model.batch_norm_momentum": ", torch's: 1 - the decay of the statistics",
    "data.num_threads": ": DALI's threads of a rank",
    "model.unfreeze": ": the blocks of model.freeze that an epoch begins to train, as {2: [blocks_c], 5: [stem]}",
    "model.init_from": ": a run, a checkpoint, or weights imported by `inceptionctl weights import`",
}
