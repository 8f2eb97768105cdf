"""Callbacks of scikit-learn for tests."""


class QuietCallback:
    """A callback that does nothing before an epoch ends."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass
