"""How good a backbone is: frozen features, then a protocol ``features -> metrics``."""

from erssl.evaluation.accuracies import classification_metrics, confusion_matrix
from erssl.evaluation.features import (
    FeatureOptions,
    cached_features,
    extract_features,
    stored_features,
)
from erssl.evaluation.knn import knn_accuracy, knn_scores
from erssl.evaluation.lens_quantities import lens_reading
from erssl.evaluation.linear_on_features import linear_accuracy
from erssl.evaluation.rows import AnyFeatures, Features, StoredFeatures, StoredRows
from erssl.evaluation.whitening import Whitening, fit_whitening, whitened

__all__ = [
    "AnyFeatures",
    "FeatureOptions",
    "Features",
    "StoredFeatures",
    "StoredRows",
    "Whitening",
    "cached_features",
    "classification_metrics",
    "confusion_matrix",
    "extract_features",
    "fit_whitening",
    "knn_accuracy",
    "knn_scores",
    "lens_reading",
    "linear_accuracy",
    "stored_features",
    "whitened",
]
