"""MLflow: tracking of runs, and bundles as models."""
