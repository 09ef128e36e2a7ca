"""An RTSP server for tests, run with the Python that has GStreamer: prints its port, serves moving pictures at /video."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURES = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=25/1"
ENCODER = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5"


def main() -> None:
    """Serve on the port that is named, or on a free one."""
    Gst.init(None)
    if Gst.ElementFactory.find("x264enc") is None:
        sys.exit("GStreamer has no x264enc")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1] if len(sys.argv) > 1 else "0")
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {PICTURES} ! {ENCODER} ! rtph264pay name=pay0 pt=96 )")
    factory.set_shared(True)
    server.get_mount_points().add_factory("/video", factory)
    if not server.attach(None):
        sys.exit("the port is taken")
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
