"""The stages of `arlarena up --attach`. The services run elsewhere, for example in other containers.

The commands of the stages run in the container of this process. `arlarena join` starts the trainer, the workers and the
policy server. All processes use the same run directory. It contains the configuration, the policy, and files with the
progress of training.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import aiohttp

from arlarena.console.launch.broker import BrokerError, check_broker
from arlarena.console.launch.child import AnyAddress, GivenAddress
from arlarena.console.launch.failures import LaunchError
from arlarena.console.launch.health import Activity, HttpHealth
from arlarena.console.launch.pipeline import CommittedVersion, Pipeline
from arlarena.console.launch.progress import View
from arlarena.console.launch.supervisor import Supervisor
from arlarena.console.report.ending import describe_ending, read_ending
from arlarena.console.runconfig import RunConfig
from arlarena.console.rundir import RunDirectory
from arlarena.console.settings import ADMIN_TOKEN, ServiceAddresses, external_broker_url, given_admin_token
from arlarena.proto.streams.queue import redact


class AttachedPipeline(Pipeline):
    """A run that uses services that run elsewhere. `Pipeline` describes the stages."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        view: View,
        supervisor: Supervisor,
        addresses: ServiceAddresses,
    ) -> None:
        super().__init__(config, run, view, supervisor)
        self.environment = GivenAddress(addresses.environment_url)
        self.inference = GivenAddress(addresses.inference_url)

    async def _start_broker(self) -> str:
        """Check the Redis at the configured URL. Returns the result of the stage as text.

        Without a URL, this process checks no Redis. The trainer and the workers have their own URL and check it.
        """
        url = external_broker_url(self.config.broker)
        if not url:
            return "not checked, because this command has no URL of Redis"
        await self._wait(f"Redis at {redact(url)}", partial(self._broker_problem, url))
        return "the given Redis"

    async def _broker_problem(self, url: str) -> str | None:
        try:
            await asyncio.to_thread(check_broker, url, timeout_s=self.settings.health_timeout_s)
        except BrokerError as error:
            return str(error)
        return None

    async def _start_environment(self) -> str:
        await self._wait_until_healthy("environment server", self.environment)
        return self.environment.url

    async def _start_inference(self) -> str:
        await self._wait_until_healthy("policy server", self.inference)
        return self.inference.url

    async def _wait_until_healthy(self, name: str, address: AnyAddress) -> None:
        check = partial(HttpHealth(), address, 0.0, self.settings.health_timeout_s)
        await self._wait(f"the {name} at {address.url}", check)

    async def _wait(self, name: str, check: Callable[[], Awaitable[str | None]]) -> None:
        limit_s = self.settings.ready_timeout_s
        deadline = time.monotonic() + limit_s
        while problem := await check():
            if time.monotonic() >= deadline:
                raise LaunchError(f"{name} is not ready after {limit_s:g} s ([console] ready_timeout_s): {problem}")
            await asyncio.sleep(self.settings.health_interval_s)

    async def _train(self) -> str:
        """Wait for the end of training. Returns the result of the stage as text.

        The trainer counts as healthy as long as its files change.
        """
        run, settings = self.run, self.settings
        files = (run.progress("train"), run.step("train"), run.metrics, run.training)
        progress = Activity(files, settings.hang_timeout_s)
        ended = Activity((run.training,), settings.ready_timeout_s)
        while True:
            ending = read_ending(run.training)
            if ending and ending["ended_by"] not in ("signal", "error"):
                return self._training_result()
            # A trainer that starts again removes `run.training`, the file that describes the earlier ending.
            unchanged = await ended(None, 0.0, settings.health_timeout_s)
            if ending and ending["ended_by"] == "error" and unchanged:
                raise LaunchError(f"the trainer has not started again: {describe_ending(ending)}")
            if problem := await progress(None, 0.0, settings.health_timeout_s):
                raise LaunchError(
                    f"the trainer makes no progress: {problem} ([console] hang_timeout_s); see the log of the trainer"
                )
            await asyncio.sleep(settings.health_interval_s)

    async def _serve_final_weights(self, newest: CommittedVersion) -> None:
        """Send the final weights to the policy server, and make the server use them.

        Only the files that the server requests are sent.
        """
        from arlarena.client.weights import PushError, Sender, WeightsClient

        token = given_admin_token()
        if token is None:
            raise LaunchError(
                "the policy server does not serve the final weights. Either restart the policy server (it loads them "
                f"at its start), or set {ADMIN_TOKEN}_FILE (this command then sends them). Then run this command again."
            )
        self.view.notice("sending the final weights to the policy server, because it does not serve them")
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                server = WeightsClient(session, self.inference.url, token)
                await Sender().deliver(newest.directory, server)
                await server.serve(str(newest.version), self.settings.ready_timeout_s)
        except (PushError, aiohttp.ClientError, TimeoutError) as error:
            raise LaunchError(f"the policy server cannot serve the final weights: {error}") from error
