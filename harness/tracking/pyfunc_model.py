"""An exported adapter as an MLflow model: MLflow runs this file to load it, without unpickling.

Input: a table with the column `sequence`. Output: one column per label, as in `lingo.predict`.
"""

import os
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from lingo.predict import open_adapter


class AdapterModel(PythonModel):
    """Loads the adapter on its backbone, from its location in training or from the folder in `LINGO_BACKBONE`."""

    def load_context(self, context: Any) -> None:
        """Called by MLflow when the model is loaded."""
        self._predictor = open_adapter(context.artifacts["adapter"], os.environ.get("LINGO_BACKBONE"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Probabilities of each label (the value of a regression) for the column `sequence`."""
        scores = self._predictor.predict(list(model_input["sequence"]))
        return pd.DataFrame(scores, columns=list(self._predictor.labels))


set_model(AdapterModel())
