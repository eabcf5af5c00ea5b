//! Compiles: the one way to the upstream, by `admit` and then `send`.

use countersign::{forward, replay, upstream::Upstream, verify};

pub async fn the_way(
    request: countersign::receive::Unverified<'_>,
    upstreams: &[std::sync::Arc<Upstream>],
    identity: &forward::Identity,
) -> bool {
    let Ok(verified) = verify::verify(request) else {
        return false;
    };
    let admitted: replay::Admitted<'_> = replay::admit(verified);
    forward::send(admitted, upstreams, identity).await.0.is_ok()
}
