"""The voice and its portrait: decoded fully, converted where needed, cut and priced before any money is spent."""

from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy

from tasks.jobs.plan import plan_cache_key, plan_job
from tasks.models import Asset, AvatarJob, Plan
from tasks.progress import Step, announce
from tasks.results import RESULT_STORAGE, passes_by_itself
from tasks.workspace import workspace


def _plan_key(_: Any, parameters: dict[str, Any]) -> str:
    return plan_cache_key(workspace(), parameters["job"], parameters["portrait"], parameters["voice"])


@task(
    task_run_name="validate voice and portrait",
    retries=3,
    retry_delay_seconds=[1, 3, 10],
    retry_condition_fn=passes_by_itself,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_plan_key),
    persist_result=True,
    result_storage=RESULT_STORAGE,
    result_serializer="json",
    log_prints=False,
)
async def validate_inputs(job: AvatarJob, portrait: Asset, voice: Asset) -> Plan:
    """Decode both inputs to the end, ready them for the provider, and quote the job. Spends nothing."""
    announce(Step("validate", "decoding portrait and voice"))
    return await plan_job(workspace(), job, portrait, voice)
