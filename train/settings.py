"""Every option of the trainer, with its default and its explanation: `Settings`."""

from dataclasses import dataclass, field


def option(default, help, **metadata):
    metadata = {"help": help} | metadata
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Settings:
    """One resolved set of options; a recipe gives each of its stages a copy with changes."""

    # ruff: noqa: RUF009  (`option` gives a dataclass field)
    recipe: str | None = option(None, "Name of a file in train/recipes, or the path of one.")
    output_dir: str = option("runs/captioner", "Folder for checkpoints, curves and the finished model.")
    model: str | None = option(None, "Captioner to start from: a folder or a name on the Hub. Default: a new one.")
    encoder_weights: str | None = option(
        None, "File (safetensors) for a new model's encoder, or 'timm' for timm's pretrained weights from the Hub."
    )
    resume_from_checkpoint: str | None = option(
        None, "'last' to go on from the last whole checkpoint in output_dir, or a checkpoint's path."
    )
    overwrite_output_dir: bool = option(False, "Begin anew in an output_dir that holds an earlier run.")
    evaluate_only: bool = option(
        False,
        "Do not train: judge the captioner that --model names, and write predictions.json (COCO's result format) and"
        " scores.json into output_dir.",
    )
    seed: int = option(42, "Seed of everything random: split, order, dropout, sampling, augmentation.")

    # data
    dataset_name: str | None = option(None, "Captioned data set on the Hub.")
    dataset_config_name: str | None = option(None, "Its configuration.")
    data_dir: str | None = option(None, "Captioned data set on disk: parquet, imagefolder or COCO's layout.")
    image_column: str | None = option(None, "Column of the photos, where it is not recognised.")
    caption_column: str | None = option(None, "Column of the captions, where it is not recognised.")
    captions_file: str | None = option(
        None, "Text file with a caption a line, for the stage language, the vocabulary and labelled photos."
    )
    labelled_photos: list[str] = option(
        [],
        "Folders of photos with a class label and no caption (imagefolders, or parquet with the columns image and"
        " label), from which the stage captions learns names. A tenth of them is kept for validation.",
    )
    labelled_share: float = option(0.25, "Share of labelled photos among those of an epoch.")
    photo_dirs: list[str] = option(
        [], "Folders of photos without captions (parquet or pictures), for the stage distil."
    )
    validation_fraction: float = option(
        0.2, "Share of the photos kept for validation where the set has no split; 0 validates on the training photos."
    )
    max_train_samples: int | None = option(None, "Use only the first so many photos after shuffling.")
    max_eval_samples: int | None = option(None, "Validate on only the first so many photos.")
    eval_split: str | None = option(
        None, "The set's split to validate on. Default: validation, val or test, or validation_fraction of train."
    )
    streaming: bool = option(
        False,
        "Read the shards as they come, without keeping them; for the stage captions. Photos are looked at in every"
        " epoch, and a run that is resumed in the middle of an epoch reads it from its start to get there.",
    )
    max_broken_fraction: float = option(0.05, "Stop if a larger share of the photos cannot be opened.")
    download_workers: int = option(32, "Photos fetched at once, where the data set has their web addresses.")
    features_dir: str | None = option(None, "Folder for cached features. Default: output_dir/features.")
    dataloader_num_workers: int = option(0, "Processes that read photos.")

    # publishing
    push_to_hub: bool = option(False, "Publish the finished captioner in a model repository on the Hub.")
    push_only: bool = option(False, "Do not train: publish the captioner that --model names.")
    hub_model_id: str | None = option(None, "The repository, NAME or OWNER/NAME. Default: the folder's name.")
    hub_private_repo: bool = option(False, "Make it private.")
    hub_license: str | None = option(None, "Licence that its card states, e.g. apache-2.0. Default: unknown.")

    # model, for a new one
    encoder_name: str = option("inception_v3", "Encoder: any timm architecture with a spatial feature map.")
    image_size: int = option(299, "Side of the photo that the encoder sees, in pixels.")
    rnn_type: str = option("gru", "gru or lstm.")
    num_layers: int = option(1, "Layers of the first RNN.")
    hidden_size: int = option(512, "Width of RNNs and attention.")
    embedding_size: int = option(300, "Width of a word's embedding.")
    attention_type: str = option("multi_head", "dot, additive or multi_head.")
    num_attention_heads: int = option(4, "Heads of multi_head.")
    min_word_count: int = option(5, "Words seen less often become <unk>.")

    # model, in every stage
    dropout: float = option(0.3, "Dropout of embedded words, regions and states.")
    word_dropout: float = option(0.1, "Share of read words that <unk> replaces.")
    label_smoothing: float = option(0.1, "Share of the target given to all words alike, for noisy captions.")

    # training
    stage: str = option("captions", "language, captions, distil or self_critical; a recipe may name several.")
    num_train_epochs: int = option(8, "Passes over the photos.")
    max_train_steps: int | None = option(None, "Stop after so many steps instead.")
    per_device_train_batch_size: int = option(32, "Photos a step (captions in the stage language), per process.")
    per_device_eval_batch_size: int = option(32, "Photos a step of validation.")
    gradient_accumulation_steps: int = option(1, "Batches whose gradients are added up for one step.")
    learning_rate: float = option(1e-3, "Learning rate.")
    encoder_learning_rate: float = option(1e-5, "Learning rate of the encoder, where it is trained.")
    encoder_trainable_from: str | None = option(
        None, "Train the encoder from this block on (e.g. Mixed_7a; 'all' for the whole). Default: frozen."
    )
    freeze_batch_norm: bool = option(
        False, "Batch norms of the trained blocks keep their statistics: for small batches and a pretrained encoder."
    )
    optim: str = option("adamw", "sgd, adadelta, rmsprop, adam, adamax, nadam, amsgrad or adamw.")
    weight_decay: float = option(0.01, "Weight decay.")
    lr_scheduler_type: str = option("cosine", "constant, linear or cosine, each after a warm-up.")
    warmup_ratio: float = option(0.02, "Share of the steps in which the learning rate rises from zero.")
    max_grad_norm: float = option(5.0, "Longer gradients are cut to this length.")
    ema_decay: float = option(
        0.0, "Decay of the weights' moving average, which is what is evaluated and kept; 0 is none."
    )
    mixed_precision: str | None = option(
        None, "no, fp16 or bf16 (which newer CPUs have too). Default: what accelerate launch says, else no."
    )
    eval_on_start: bool = option(
        False, "Validate before the first step, too; a stage then ends no worse than it began."
    )
    soup: str | None = option(
        None,
        "Average the weights of the stage's kept checkpoints at its end, uniform or greedy (Wortsman et al. 2022), and"
        " keep the average if it validates better; checkpoints_total_limit says how many there are.",
    )
    eval_steps: int | None = option(None, "Validate every so many steps. Default: after each epoch.")
    checkpointing_steps: int = option(500, "Checkpoint every so many steps, and after each validation.")
    checkpoints_total_limit: int = option(1, "Keep so many checkpoints of a stage.")
    logging_steps: int = option(50, "Log the loss every so many steps.")
    report_to: str | None = option(None, "Send the numbers to a tracker as well: tensorboard, wandb, trackio.")
    early_stopping_patience: int | None = option(None, "Stop a stage after so many validations without a new best.")

    # captions
    num_beams: int = option(3, "Beams of validation captions.")
    max_new_tokens: int = option(20, "Words of a validation caption at most.")
    captions_per_photo: int = option(5, "Captions used of each photo, the first ones; a photo with fewer repeats them.")

    # distil
    teacher_name: str = option("tf_efficientnet_lite2", "timm architecture that teaches.")
    teacher_weights: str | None = option(None, "Its weights: a file. Default: timm's pretrained ones from the Hub.")
    distil_block: str | None = option(
        None,
        "Frozen block whose map the last map should keep, in place of learning the teacher's map (e.g. Mixed_7a).",
    )
    distil_image_size: int | None = option(None, "Side of the crop that the student sees. Default: image_size.")
    mixup_alpha: float = option(0.2, "Photos are mixed with a share drawn from Beta(alpha, alpha); 0 is none.")

    # self_critical
    cross_entropy_weight: float = option(0.0, "Weight of the cross-entropy of the reference captions in the loss.")
    bleu_weight: float = option(0.0, "Weight of the sentence's BLEU-4 in the reward, beside CIDEr-D.")
    sampled_captions: int = option(5, "Captions sampled for each photo.")
    baseline: str = option(
        "mean", "Reward to beat: mean of the other samples (Luo 2020) or greedy (Rennie et al. 2017)."
    )
