"""The published data sets: layout, counts, origin, licence, citation."""

from dataclasses import dataclass

from medfocus.fewshot.data.dataset import Part
from medfocus.models.clip.text import class_prompt


@dataclass(frozen=True)
class PublishedPart:
    """A part of a published data set.

    Attributes:
        part: train or test; None if the data set has no parts.
        folder: contains its class folders; "" for the data set's own folder.
        counts: number of images of each class.
    """

    part: Part | None
    folder: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """A published data set.

    Attributes:
        title: as published.
        modality: of the images.
        classes: C class names.
        phrases: C captions, each the end of a class prompt.
        folders: C class folders, as published.
        parts: train and test, or a single one without a name.
        lesion_classes: classes whose images have one or more masks, named <image>_mask,
            <image>_mask_1 and so on.
        page: where to download it.
        licence: as stated on its page; None if not known for certain.
        citation: of the data set.
    """

    title: str
    modality: str
    classes: tuple[str, ...]
    phrases: tuple[str, ...]
    folders: tuple[str, ...]
    parts: tuple[PublishedPart, ...]
    lesion_classes: tuple[str, ...]
    page: str
    licence: str | None
    citation: str

    @property
    def prompts(self) -> tuple[str, ...]:
        """C class prompts."""
        return tuple(class_prompt(phrase) for phrase in self.phrases)


COVID = Recipe(
    title="Covid-19 Image Dataset",
    modality="chest X-ray",
    classes=("COVID-19", "normal", "viral pneumonia"),
    phrases=(
        "a chest X-ray showing COVID-19",
        "a chest X-ray showing healthy lungs",
        "a chest X-ray showing viral pneumonia",
    ),
    folders=("Covid", "Normal", "Viral Pneumonia"),
    parts=(
        PublishedPart("train", "train", (111, 70, 70)),
        PublishedPart("test", "test", (26, 20, 20)),
    ),
    lesion_classes=(),
    page="https://www.kaggle.com/datasets/pranavraikokte/covid19-image-dataset",
    licence="CC BY-SA 4.0",
    citation="Pranav Raikote. Covid-19 Image Dataset. Kaggle, 2020",
)

# Identified by its size: 24 of the 25 accuracies that the paper's authors list for lung disease are
# whole numbers of 2025 images, which is this data set's test part. Its third part, val, is
# ignored.
LUNG = Recipe(
    title="Lungs Disease Dataset (4 types)",
    modality="chest X-ray",
    classes=("bacterial pneumonia", "COVID-19", "normal", "tuberculosis", "viral pneumonia"),
    phrases=(
        "a chest X-ray showing bacterial pneumonia",
        "a chest X-ray showing COVID-19",
        "a chest X-ray showing healthy lungs",
        "a chest X-ray showing tuberculosis",
        "a chest X-ray showing viral pneumonia",
    ),
    folders=(
        "Bacterial Pneumonia",
        "Corona Virus Disease",
        "Normal",
        "Tuberculosis",
        "Viral Pneumonia",
    ),
    parts=(
        PublishedPart("train", "train", (1205, 1218, 1207, 1220, 1204)),
        PublishedPart("test", "test", (403, 407, 404, 408, 403)),
    ),
    lesion_classes=(),
    page="https://www.kaggle.com/datasets/omkarmanohardalvi/lungs-disease-dataset-4-types",
    licence=None,
    citation="Omkar Manohar Dalvi. Lungs Disease Dataset (4 types). Kaggle",
)

# The version of 2021, of 7023 images. 19 of the 25 accuracies that the paper's authors list for
# brain tumours are whole numbers of 1311 images, which is this version's test part.
BRAIN = Recipe(
    title="Brain Tumor MRI Dataset",
    modality="brain MRI",
    classes=("glioma", "meningioma", "no tumor", "pituitary tumor"),
    phrases=(
        "a brain MRI slice showing a glioma",
        "a brain MRI slice showing a meningioma",
        "a brain MRI slice showing no tumor",
        "a brain MRI slice showing a pituitary tumor",
    ),
    folders=("glioma", "meningioma", "notumor", "pituitary"),
    parts=(
        PublishedPart("train", "Training", (1321, 1339, 1595, 1457)),
        PublishedPart("test", "Testing", (300, 306, 405, 300)),
    ),
    lesion_classes=(),
    page="https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
    licence="CC0 1.0",
    citation="Masoud Nickparvar. Brain Tumor MRI Dataset. Kaggle, 2021."
    " doi:10.34740/KAGGLE/DSV/2645886",
)

# It is not known whether the paper used this breast-cancer set: 20 of the 25 accuracies that its
# authors list are whole numbers of 307 images, which no fifth or class of this data set has.
# The normal images also have masks, all black; they show no lesion and are ignored.
BREAST = Recipe(
    title="Breast Ultrasound Images Dataset (BUSI)",
    modality="breast ultrasound",
    classes=("benign", "malignant", "normal"),
    phrases=(
        "a breast ultrasound showing a benign tumor",
        "a breast ultrasound showing a malignant tumor",
        "a breast ultrasound showing normal tissue",
    ),
    folders=("benign", "malignant", "normal"),
    parts=(PublishedPart(None, "", (437, 210, 133)),),
    lesion_classes=("benign", "malignant"),
    page="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
    licence=None,
    citation="Walid Al-Dhabyani, Mohammed Gomaa, Hussien Khaled, Aly Fahmy. Dataset of breast"
    " ultrasound images. Data in Brief 28, 104863, 2020. doi:10.1016/j.dib.2019.104863",
)
