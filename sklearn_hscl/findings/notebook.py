"""What `fit` found, as a part of scikit-learn's HTML representation."""

from typing import Any

from sklearn.utils._repr_html.fitted_attributes import AttrsDict

from sklearn_hscl.findings.training_record import training_record


class AttributesAndRecord(AttrsDict):
    """Table of fitted attributes, and below it the findings about the training.

    scikit-learn shows it wherever it shows the estimator: alone, in a pipeline or in a
    search.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted.
    attributes : AttrsDict
        Its attributes, as scikit-learn reads them.
    """

    def __init__(self, embedder: Any, attributes: AttrsDict) -> None:
        super().__init__(
            fitted_attrs=attributes.data,
            estimator_class=attributes.estimator_class,
            doc_link=attributes.doc_link,
        )
        self.embedder = embedder

    def _html_repr(self) -> str:
        record = training_record(self.embedder)
        is_open = " open" if any(finding.needs_a_look for finding in record) else ""
        return (
            f"{AttrsDict._html_repr(self)}"
            f'<div class="estimator-table"><details{is_open}>'
            f"<summary>What training found</summary>{record._repr_html_()}"
            f"</details></div>"
        )
