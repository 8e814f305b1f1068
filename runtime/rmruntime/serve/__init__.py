"""The server: bundles behind HTTP, in the protocols that tools speak already. `app` mounts it in one's own process."""

from rmruntime.modules import lazy_names

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    from rmruntime.serve.application import Application, app
    from rmruntime.serve.server_options import ServerOptions

__all__ = ["Application", "ServerOptions", "app"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__, {"Application": "application", "ServerOptions": "server_options", "app": "application"}
    )
