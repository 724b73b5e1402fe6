"""The options of the trainer, with defaults and help texts: `Settings`, in the groups of `--help`."""

from dataclasses import dataclass, field


def option(default, help, **metadata):
    metadata = {"help": help} | metadata
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# ruff: noqa: RUF009  (`option` returns a dataclass field)
@dataclass
class RunOptions:
    _argument_group_name = "run"

    recipe: str | None = option(None, "Name of a recipe in train/recipes, or path of a YAML file.")
    output_dir: str = option("runs/captioner", "Folder for checkpoints, curves and the trained captioner.")
    model: str | None = option(
        None, "Captioner to start from: a folder or a model ID on the Hub. Default: a new captioner."
    )
    encoder_weights: str | None = option(
        None,
        "Encoder weights of a new captioner: a safetensors file, a captioner's folder, or 'timm' for timm's pretrained"
        " weights from the Hub.",
    )
    decoder_weights: str | None = option(
        None,
        "Captioner (a folder or a model ID on the Hub) whose decoder a new captioner starts from, word by word: for a"
        " larger vocabulary or another language.",
    )
    resume_from_checkpoint: str | None = option(
        None, "'last' to resume from the last complete checkpoint in output_dir, or the path of a checkpoint."
    )
    overwrite_output_dir: bool = option(False, "Start over if output_dir contains an earlier run.")
    evaluate_only: bool = option(
        False,
        "Do not train: evaluate the captioner given by --model, and write predictions.json (COCO results format) and"
        " scores.json to output_dir.",
    )
    calibrate_only: bool = option(
        False,
        "Do not train: fit the confidence of the captioner given by --model, a folder, to the validation photos, write"
        " it to its config.json, and calibration.json and reliability.png to output_dir.",
    )
    seed: int = option(42, "Random seed of splits, shuffling, dropout, sampling and augmentation.")


@dataclass
class DataOptions:
    _argument_group_name = "data"

    dataset_name: list[str] = option([], "Captioned data sets on the Hub.")
    dataset_config_name: str | None = option(None, "Configuration of the data sets on the Hub.")
    data_dir: list[str] = option(
        [],
        "Captioned data sets on disk, each in its own layout: parquet, imagefolder, webdataset, COCO, Flickr8k or"
        " Flickr30k. Each keeps its own validation split.",
    )
    data_weights: list[float] = option(
        [], "How often each photo of a data set is drawn in an epoch, one number per data set. Default: once."
    )
    data_languages: list[str] = option(
        [],
        "Language of each data set's captions, e.g. en vi, for a captioner with several languages. Not needed where the"
        " data say it: dictionaries by language, columns such as captions_vi, a column named language.",
    )
    image_column: str | None = option(None, "Column with the photos. Default: recognized by name.")
    caption_column: str | None = option(None, "Column with the captions. Default: recognized by name.")
    caption_language: str | None = option(
        None, "Language to read if captions are dictionaries by language, e.g. vi, for a captioner of one language."
    )
    captions_file: list[str] = option(
        [],
        "Text file with one caption per line, for the stage language, the vocabulary and labeled photos; for a"
        " captioner with several languages, one file per language, in the order of --languages.",
    )
    labeled_photos: list[str] = option(
        [],
        "Folders of photos with a class label and no caption (imagefolders, or parquet with the columns image and"
        " label), from which the stage captions learns names. A tenth of them is held out for validation.",
    )
    labeled_language: str | None = option(
        None, "Language of the names of the labeled photos. Default: the captioner's first."
    )
    labeled_share: float = option(0.25, "Fraction of the photos of an epoch that are labeled photos.")
    photo_dirs: list[str] = option([], "Folders of photos without captions (parquet or image files), for distil.")
    validation_fraction: float = option(
        0.2,
        "Fraction of the photos held out for validation if a data set has no validation split; 0 validates on the"
        " training photos, or with several data sets on those that have a validation split.",
    )
    max_train_samples: int | None = option(
        None, "Number of training photos to use of each data set, after shuffling. Default: all."
    )
    max_eval_samples: int | None = option(None, "Number of validation photos to use of each data set. Default: all.")
    eval_split: str | None = option(
        None, "Split to validate on. Default: validation, val or test, or validation_fraction of the training split."
    )
    streaming: bool = option(
        False,
        "Stream the shards instead of storing them; for the stage captions only. Features are not cached, and a run"
        " that resumes in the middle of an epoch reads the epoch again from its beginning.",
    )
    max_broken_fraction: float = option(0.05, "Stop if more than this fraction of the photos cannot be opened.")
    download_workers: int = option(32, "Number of photos to download in parallel, if the data set contains URLs.")
    features_dir: str | None = option(None, "Folder for cached features. Default: output_dir/features.")
    dataloader_num_workers: int = option(0, "Number of worker processes that load photos.")


@dataclass
class ModelOptions:
    _argument_group_name = "model, only for a new captioner"

    encoder_name: str = option("inception_v3", "Encoder: any timm architecture with a spatial feature map.")
    image_size: int = option(299, "Side length of the encoder's input, in pixels.")
    rnn_type: str = option("gru", "gru or lstm.")
    num_layers: int = option(1, "Number of layers of the first RNN.")
    hidden_size: int = option(512, "Dimension of the RNNs and the attention.")
    embedding_size: int = option(300, "Dimension of the word embeddings.")
    attention_type: str = option("multi_head", "dot, additive or multi_head.")
    num_attention_heads: int = option(4, "Number of heads of multi_head.")
    min_word_count: int = option(5, "Words that occur less often become <unk>.")
    languages: list[str] = option(
        [], "Languages of a new captioner, the first is the default, e.g. en vi. Default: those of --data_languages."
    )


@dataclass
class RegularizationOptions:
    _argument_group_name = "model, in every stage"

    dropout: float = option(0.3, "Dropout probability of word embeddings, regions and hidden states.")
    word_dropout: float = option(0.1, "Probability of replacing an input word by <unk>.")
    label_smoothing: float = option(0.1, "Label smoothing, which makes training robust to noisy captions.")


@dataclass
class TrainingOptions:
    _argument_group_name = "training"

    stage: str = option("captions", "language, captions, distil or self_critical; a recipe may combine several.")
    num_train_epochs: int = option(8, "Number of epochs.")
    max_train_steps: int | None = option(None, "Number of steps. Overrides num_train_epochs.")
    per_device_train_batch_size: int = option(32, "Photos (in the stage language, captions) per step and process.")
    per_device_eval_batch_size: int = option(32, "Photos per step and process in validation.")
    gradient_accumulation_steps: int = option(1, "Number of batches whose gradients are accumulated for one step.")
    learning_rate: float = option(1e-3, "Learning rate.")
    encoder_learning_rate: float = option(1e-5, "Learning rate of the encoder, if it is trained.")
    encoder_trainable_from: str | None = option(
        None, "First block of the encoder to train, e.g. Mixed_7a, or 'all'. Default: the encoder is frozen."
    )
    freeze_batch_norm: bool = option(
        False, "Freeze the batch-norm statistics of trained blocks: for small batches and a pretrained encoder."
    )
    optim: str = option("adamw", "One of timm's: sgd, adadelta, rmsprop, adam, adamax, nadam, amsgrad or adamw.")
    weight_decay: float = option(0.01, "Weight decay.")
    lr_scheduler_type: str = option("cosine", "constant, linear or cosine, each with warm-up.")
    warmup_ratio: float = option(0.02, "Fraction of the steps over which the learning rate warms up linearly from 0.")
    max_grad_norm: float = option(5.0, "Maximum gradient norm, for gradient clipping.")
    ema_decay: float = option(
        0.0, "Decay of the exponential moving average of the weights, which is evaluated and saved; 0 disables it."
    )
    mixed_precision: str | None = option(
        None, "no, fp16 or bf16 (also on recent CPUs). Default: the setting of accelerate launch, otherwise no."
    )
    eval_on_start: bool = option(
        False, "Also validate before the first step, so that a stage never ends worse than it began."
    )
    soup: str | None = option(
        None,
        "greedy: at the end of a stage, average the weights of its checkpoints (Wortsman et al. 2022), and keep the"
        " average if its validation score is better; checkpoints_total_limit sets their number.",
    )
    eval_steps: int | None = option(None, "Number of steps between validations. Default: after each epoch.")
    checkpointing_steps: int = option(
        500, "Number of steps between checkpoints; each validation saves a checkpoint as well."
    )
    checkpoints_total_limit: int = option(1, "Number of checkpoints to keep per stage.")
    logging_steps: int = option(50, "Number of steps between logs.")
    report_to: str | None = option(None, "Tracker to log to as well: tensorboard, wandb or trackio.")
    early_stopping_patience: int | None = option(
        None, "Number of validations without improvement after which a stage stops. Default: no early stopping."
    )


@dataclass
class CaptionOptions:
    _argument_group_name = "captions"

    num_beams: int = option(3, "Number of beams for validation captions.")
    max_new_tokens: int = option(20, "Maximum number of words of a validation caption.")
    min_new_tokens: int | None = option(None, "Minimum length of the captions of a new captioner, in words.")
    captions_per_photo: int = option(
        5,
        "Number of captions to use per photo and language, repeated if a photo has fewer; if it has more, others in"
        " each epoch.",
    )


@dataclass
class DistilOptions:
    _argument_group_name = "stage distil"

    teacher_name: str = option("tf_efficientnet_lite2", "timm architecture of the teacher.")
    teacher_weights: str | None = option(
        None, "File with the teacher's weights. Default: timm's pretrained weights from the Hub."
    )
    distil_block: str | None = option(
        None,
        "Frozen block whose feature map the last feature map learns to predict, instead of the teacher's map (e.g."
        " Mixed_7a).",
    )
    mixup_alpha: float = option(0.2, "Mixup coefficients are drawn from Beta(alpha, alpha); 0 disables mixup.")


@dataclass
class SelfCriticalOptions:
    _argument_group_name = "stage self_critical"

    cross_entropy_weight: float = option(0.0, "Weight of the reference captions' cross-entropy in the loss.")
    repetition_penalty: float = option(
        0.0, "How much each repeated content word of a sampled caption lowers its reward, which is CIDEr-D."
    )
    sampled_captions: int = option(5, "Number of captions to sample per photo.")


@dataclass
class PublishingOptions:
    _argument_group_name = "publishing"

    push_to_hub: bool = option(False, "Publish the trained captioner in a model repository on the Hub.")
    push_only: bool = option(False, "Do not train: publish the captioner given by --model.")
    hub_model_id: str | None = option(None, "Repository on the Hub, NAME or OWNER/NAME. Default: the folder's name.")
    hub_private_repo: bool = option(False, "Make the repository private.")
    hub_license: str | None = option(None, "License stated in the model card, e.g. apache-2.0. Default: unknown.")


@dataclass
class Settings(
    RunOptions,
    DataOptions,
    ModelOptions,
    RegularizationOptions,
    TrainingOptions,
    CaptionOptions,
    DistilOptions,
    SelfCriticalOptions,
    PublishingOptions,
):
    """The options of one stage. Each stage of a recipe has its own."""


GROUPS = Settings.__bases__
