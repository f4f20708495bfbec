"""Services of a tree: what they say of local scripts and of SSH, and those that nothing here provides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from windtunnel.config.mlos.names import Scope
from windtunnel.config.mlos.nodes import Node
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.search import SearchPath
from windtunnel.options import nearest

__all__ = ["Services"]

_ROOT = "mlos_bench.services."
_LOCAL = frozenset({"LocalExecService", "TempDirContextService"})
_SSH = frozenset({"SshHostService", "SshFileShareService"})
_CLOUD = {
    "AzureAuthService": "nothing here logs in to Azure",
    "AzureVMService": "nothing here makes machines in Azure; use machines that exist, and the SSH services",
    "AzureNetworkService": "nothing here makes networks in Azure; make it before, and leave this service out",
    "AzureFileShareService": "files are brought to hosts over SSH; use SshFileShareService",
    "AzureSaaSConfigService": "nothing here configures services of Azure; do it in the scripts of a LocalEnv",
}


@dataclass(frozen=True, slots=True)
class Services:
    """What the environments of a part of the tree have at hand; of two services of a kind the last counts.

    :ivar ssh: what the SSH services say of connections; None if there are none.
    :ivar temp_dir: where local scripts run; None for a fresh folder.
    :ivar goes_on: a local line that fails does not end its step.
    """

    ssh: Node | None = None
    temp_dir: Node | None = None
    goes_on: bool = False

    def including(
        self, files: Iterable[Node], scope: Scope, search: SearchPath, remarks: Remarks
    ) -> Services:
        """These and the services in the files. What cannot be honoured is refused in ``remarks``."""
        services = self
        for file in files:
            loaded = search.load(file)
            listed = loaded.entries.get("services")
            for one in [loaded] if listed is None else listed.items:
                services = services._with(one, scope, remarks)
        return services

    def _with(self, service: Node, scope: Scope, remarks: Remarks) -> Services:
        written = service.entries.get("class")
        if written is None:
            raise service.error("expected a service with a class, or a list of services")
        name = written.text.rpartition(".")[2]
        config = service.entries.get("config") or service.with_value({})
        config = scope.merged(config)
        if name in _LOCAL:
            return self._with_local(config, scope)
        if name in _SSH:
            before = {} if self.ssh is None else self.ssh.entries
            return replace(self, ssh=config.with_value({**before, **config.entries}))
        if name == "ConfigPersistenceService":
            hint = "name the folders in config_path of the main file"
            remarks.refuse(written, f"a service cannot change where files are found; {hint}")
        else:
            known = (*_LOCAL, *_SSH, *_CLOUD)
            remarks.refuse(written, f"{name}: {_CLOUD.get(name) or 'no such service' + nearest(name, known)}")
        return self

    def _with_local(self, config: Node, scope: Scope) -> Services:
        found = self
        if (directory := config.get("temp_dir")) is not None:
            found = replace(found, temp_dir=directory.with_value(scope.evaluated(directory.text, {})))
        if (aborts := config.get("abort_on_error")) is not None:
            found = replace(found, goes_on=not aborts.value)
        return found
