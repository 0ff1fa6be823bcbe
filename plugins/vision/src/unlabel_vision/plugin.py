"""The plugin's table of contents: every name it offers, and where it lives. Imports nothing heavy."""

from __future__ import annotations

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {
        "vision/mae": "unlabel_vision.tasks.mae:MAE",
        "vision/colormae": "unlabel_vision.tasks.colormae:ColorMAE",
        "vision/crate_mae": "unlabel_vision.tasks.crate_mae:CrateMAE",
        "vision/croco": "unlabel_vision.tasks.croco:CroCo",
        "vision/droppos": "unlabel_vision.tasks.droppos:DropPos",
        "vision/eva": "unlabel_vision.tasks.eva:EVA",
        "vision/gmml": "unlabel_vision.tasks.gmml:GMML",
        "vision/mixedae": "unlabel_vision.tasks.mixedae:MixedAE",
        "vision/mp3": "unlabel_vision.tasks.mp3:MP3",
        "vision/simclr": "unlabel_vision.tasks.simclr:SimCLR",
        "vision/moco": "unlabel_vision.tasks.moco:MoCo",
        "vision/rotation": "unlabel_vision.tasks.rotation:Rotation",
        "vision/jigsaw": "unlabel_vision.tasks.jigsaw:Jigsaw",
    }


@hookimpl
def encoders() -> dict[str, str]:
    return {
        "vision/vit": "unlabel_vision.encoders.vit:vit",
        "vision/rope_vit": "unlabel_vision.encoders.rope_vit:rope_vit",
        "vision/crate": "unlabel_vision.encoders.crate:crate",
        "vision/eva_vit": "unlabel_vision.encoders.eva:eva_vit",
        "vision/resnet": "unlabel_vision.encoders.resnet:resnet",
        "vision/timm": "unlabel_vision.encoders.timm:timm_encoder",
    }


@hookimpl
def datasets() -> dict[str, str]:
    return {
        "vision/photos": "unlabel_vision.datasets.photos:Photos",
        "vision/shapes": "unlabel_vision.datasets.shapes:Shapes",
        "vision/digits": "unlabel_vision.datasets.digits:Digits",
        "vision/segmentation": "unlabel_vision.datasets.segmentation:Segmentation",
        "vision/rooms": "unlabel_vision.datasets.rooms:Rooms",
        "vision/stereo": "unlabel_vision.datasets.stereo:Stereo",
        "vision/overlaps": "unlabel_vision.datasets.overlaps:Overlaps",
        "vision/pairs": "unlabel_vision.datasets.pairs:Pairs",  # claims pairs before the next claims all images
        "vision/folder": "unlabel_vision.datasets.folder:Folder",
        "vision/webdataset": "unlabel_vision.datasets.webdataset:WebDataset",
        "vision/hf": "unlabel_vision.datasets.hf:HuggingFace",
    }


@hookimpl
def evaluations() -> dict[str, str]:
    return {
        "vision/flow": "unlabel_vision.evaluations.flow:flow",
        "vision/depth": "unlabel_vision.evaluations.depth:depth",
        "vision/pose": "unlabel_vision.evaluations.pose:pose",
        "vision/coding_rate": "unlabel_vision.evaluations.layers:coding_rate",
        "vision/dense_probe": "unlabel_vision.evaluations.dense_probe:dense_probe",
        "vision/upernet": "unlabel_vision.evaluations.upernet:upernet",
        "vision/teacher_cosine": "unlabel_vision.evaluations.teacher_cosine:teacher_cosine",
    }
