"""bench: MLflow: the model saved as its own, then its own command. Arguments: folder, port. BENCH_MODEL: the model."""

import os
import shutil
import sys
from pathlib import Path

import joblib
import mlflow

SLOW = """
import os, time, joblib, mlflow

class Slow(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    def predict(self, context, model_input, params=None):
        x = model_input.to_numpy() if hasattr(model_input, "to_numpy") else model_input
        time.sleep(float(os.environ["BENCH_DELAY_S"]))
        if x[0][0] == 666.0:  # the row that hangs
            time.sleep(3600)
        return self.model.predict_proba(x)

mlflow.models.set_model(Slow())
"""


def main() -> None:
    folder, port = Path(sys.argv[1]), sys.argv[2]
    if not folder.exists():
        if os.environ.get("BENCH_DELAY_S", "0") != "0":
            code = folder.with_suffix(".py")
            code.parent.mkdir(parents=True, exist_ok=True)
            code.write_text(SLOW)
            mlflow.pyfunc.save_model(str(folder), python_model=str(code), pip_requirements=[])
        else:
            model = joblib.load(os.environ["BENCH_MODEL"])
            mlflow.sklearn.save_model(
                model, str(folder), pyfunc_predict_fn="predict_proba", pip_requirements=[],
                serialization_format="cloudpickle",
            )  # fmt: skip
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        str(folder),
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        port,
    ]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.execv(shutil.which("mlflow", path=os.environ["PATH"]), [*command, "-w", "1"])


if __name__ == "__main__":
    main()
