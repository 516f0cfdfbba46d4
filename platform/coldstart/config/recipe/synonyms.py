"""Common synonyms of recipe keys: a recipe that uses one is refused, and the error names the right key."""

from collections.abc import Mapping

Words = Mapping[str, tuple[str, ...]]

_TRAINING: Words = {
    "learning_rate": ("lr", "base_lr", "max_lr"),
    "weight_decay": ("wd", "l2", "l2_reg"),
    "epochs": ("n_epochs", "num_epochs", "max_epochs", "num_train_epochs"),
}
_PATIENCE: Words = {"patience": ("early_stopping", "early_stopping_patience", "early_stop_patience")}
_BATCH = ("batch_size", "bs", "global_batch_size", "train_batch_size")

SYNONYMS: dict[str, Words] = {
    "": {
        "content.use_image": ("image", "images", "picture", "pictures", "use_image", "use_images"),
        "content.use_text": ("text", "words", "use_text"),
        "ranker.windows_per_step": _BATCH,
        "method.coarse.batch": _BATCH,
        "method.fine.windows_per_step": _BATCH,
        **{
            f"{section}.{field}": (field, *words)
            for section in ("ranker", "method.coarse", "method.fine")
            for field, words in _TRAINING.items()
        },
        "ranker.embedding_dim": ("dim", "embedding_size", "embedding_dim", "emb_dim", "embed_dim"),
        "ranker.dropout": ("dropout", "dropout_rate"),
        "encoder": ("mllm", "vlm"),
        "data": ("dataset", "datasets"),
        "cluster.workers": ("num_workers", "n_workers", "world_size", "workers"),
        "paths.runs": ("output_dir", "out_dir", "run_dir", "runs"),
        "registry": ("mlflow",),
        "mature_events": ("min_events", "min_train_events", "min_frequency", "tau_freq"),
        "method.coarse": ("coarse",),
        "method.fine": ("fine",),
    },
    "method": {"name": ("kind", "type"), "mode": ("training", "variant")},
    "data": {
        "files.items": ("items", "item_file"),
        "files.events": ("events", "interactions", "clicks", "log"),
        "files.columns": ("columns",),
        "files.positive_threshold": ("positive_threshold", "threshold"),
        "max_image_bytes": ("max_picture_bytes",),
        "max_image_pixels": ("max_picture_pixels",),
    },
    "data.files": {
        "items": ("catalog", "item_file", "items_file"),
        "events": ("interactions", "clicks", "log", "event_file"),
        "positive_threshold": ("threshold", "rating_threshold", "label_threshold"),
        "root": ("path", "dir", "directory", "folder"),
    },
    "data.files.columns": {
        "image": ("picture", "images", "img", "photo", "poster"),
        "text": ("description", "body"),
        "user_id": ("user",),
        "item_id": ("item",),
        "timestamp": ("time", "ts", "date"),
        "label": ("target", "click", "clicked", "rating"),
        "created_at": ("published_at", "release_date"),
    },
    "data.split": {
        "valid": ("val", "validation", "valid_fraction", "valid_size"),
        "test": ("test_fraction", "test_size"),
        "kind": ("type", "strategy", "method"),
    },
    "data.generated": {
        "image_size": ("picture_size", "img_size", "resolution"),
        "items": ("num_items", "n_items"),
        "users": ("num_users", "n_users"),
        "events": ("num_events", "n_events"),
    },
    "content": {
        "use_image": ("image", "images", "picture", "pictures", "img"),
        "use_text": ("text", "texts", "words", "title"),
    },
    "cluster": {
        "workers": ("num_workers", "n_workers", "world_size", "ranks"),
        "gpus_per_worker": ("gpus", "num_gpus", "num_gpus_per_worker"),
        "cpus_per_worker": ("cpus", "num_cpus", "num_cpus_per_worker"),
        "threads_per_worker": ("threads", "num_threads", "omp_num_threads"),
    },
    "ranker": {
        **_TRAINING,
        **_PATIENCE,
        "windows_per_step": (*_BATCH, "batch", "users_per_step"),
        "embedding_dim": ("dim", "width", "emb_dim", "embed_dim", "embedding_size", "d_model", "hidden_size"),
        "num_heads": ("heads", "n_heads", "attention_heads", "num_attention_heads"),
        "max_history": ("history", "max_len", "max_seq_len", "max_seq_length", "history_length", "seq_len"),
        "mlp_units": ("hidden", "hidden_units", "hidden_dims", "mlp", "mlp_dims", "mlp_hidden", "layers"),
        "cross_layers": ("num_layers", "n_layers", "num_cross_layers"),
        "dropout": ("dropout_rate", "drop_rate", "p_dropout"),
        "embedding_adam_eps": ("eps", "adam_eps", "epsilon"),
        "kind": ("type", "model", "name", "class"),
    },
    "encoder": {
        "mllm": ("model", "name", "checkpoint", "vlm", "model_name", "model_name_or_path"),
        "image_size": ("image", "picture", "picture_size", "img_size", "resolution"),
        "instruction": ("prompt", "cue"),
        "trainable": ("train", "unfreeze", "trained"),
        "max_text_tokens": ("max_length", "max_len", "max_tokens", "text"),
        "dtype": ("precision", "torch_dtype"),
        "layer_groups": ("num_layers", "n_layers", "num_groups"),
        "lora.dropout": ("dropout", "lora_dropout"),
        "lora.rank": ("lora_rank", "lora_r"),
        "lora.alpha": ("lora_alpha",),
    },
    "encoder.lora": {"rank": ("r",), "alpha": ("lora_alpha",), "dropout": ("lora_dropout",)},
    "method.coarse": {
        **_TRAINING,
        "batch": _BATCH,
        "micro_batch": ("micro_batch_size", "per_device_batch_size", "per_device_train_batch_size"),
        "temperature": ("tau",),
        "max_grad_norm": ("clip", "clip_grad", "clip_grad_norm", "grad_clip", "gradient_clip_val", "gradient_clipping"),
        "token_dropout": ("dropout", "word_dropout", "text_dropout", "dropout_rate"),
        "warmup_ratio": ("warmup", "warmup_steps", "warmup_fraction"),
        "holdout_fraction": ("holdout", "holdout_share", "val", "valid"),
        "zero_stage": ("zero", "stage", "deepspeed_stage"),
        "negatives.num_sampled": ("num_negatives", "n_negatives", "num_neg"),
        "checkpoint_every": ("save_steps", "save_every", "checkpoint_interval"),
    },
    "method.coarse.negatives": {"num_sampled": ("num_negatives", "n_negatives", "num_neg", "number", "count")},
    "method.fine": {
        **_TRAINING,
        **_PATIENCE,
        "windows_per_step": (*_BATCH, "batch", "users_per_step"),
        "mlp_units": ("hidden", "hidden_units", "hidden_size", "hidden_dim", "dim", "width"),
        "dropout": ("dropout_rate", "drop_rate"),
    },
    "method.fine.joint": {
        "ranker_lr": ("lr", "learning_rate"),
        "epochs": _TRAINING["epochs"],
    },
    "evaluation": {
        "num_resamples": ("bootstrap", "n_resamples", "n_bootstrap", "num_bootstrap", "resamples"),
        "top_k": ("k", "top", "topk"),
        "confidence": ("confidence_level", "ci", "alpha"),
        "calibration_bins": ("bins", "n_bins", "num_bins"),
    },
    "registry": {
        "tracking_uri": ("uri", "mlflow_uri", "mlflow_tracking_uri"),
        "project": ("experiment", "experiment_name"),
    },
    "serving": {
        "max_batch": ("batch_size", "max_batch_size", "batch"),
        "batch_wait_ms": ("batch_wait_timeout_s", "batch_timeout_ms", "batch_wait_s"),
        "max_queued_requests": ("max_queued",),
        "request_timeout_s": ("timeout", "timeout_s"),
        "max_replicas": ("replicas", "num_replicas"),
        "scorer_placement": ("ranker_placement", "placement"),
        "security.tokens_file": ("tokens", "tokens_file", "auth"),
    },
    "refresh": {"batch": ("batch_size", "bs")},
}
"""Section -> key relative to the section -> its synonyms. A word may be a synonym of several keys."""

_SEED = ("seed", "random_seed", "random_state", "rng_seed", "manual_seed")


def right_keys(section: str, word: str) -> list[str]:
    """Full dotted keys of the settings that `word` may mean in a section; empty if it is not a known synonym.

    Args:
        section: Dotted path; the empty string is the top level.
        word: Unknown key.
    """
    if word in _SEED:
        return ["seed"]
    prefix = f"{section}." if section else ""
    return [prefix + key for key, words in SYNONYMS.get(section, {}).items() if word in words]
