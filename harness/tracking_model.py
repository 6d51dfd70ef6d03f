"""An exported adapter as an MLflow model: MLflow runs this file when it loads one, and nothing is unpickled.

Input: a table with the column `sequence`. Output: a column for each label, as `lingo.predict` gives them.
MLflow would read type hints of the methods as the signature, which the model has already.
"""

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class AdapterModel(PythonModel):
    """Loads the adapter on its backbone, from where that was in training or from the folder in `LINGO_BACKBONE`."""

    def load_context(self, context):  # type: ignore[no-untyped-def]
        """Called by MLflow when the model is loaded."""
        import os

        from lingo.predict import open_adapter

        self._predictor = open_adapter(context.artifacts["adapter"], os.environ.get("LINGO_BACKBONE"))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Probabilities of each label (the value of a regression) for the column `sequence`."""
        import pandas as pd

        scores = self._predictor.predict(list(model_input["sequence"]))
        return pd.DataFrame(scores, columns=list(self._predictor.labels))


set_model(AdapterModel())
