//! Compiles: the one way to the upstream, by `admit` and then `outbound`.

use std::sync::Arc;

use countersign::{
    forward,
    replay::{self, Decision, Guard, Lease},
    upstream::Upstream,
    verify,
};

pub async fn the_way(
    request: countersign::receive::Unverified<'_>,
    guard: &Arc<Guard>,
    upstreams: &[Arc<Upstream>],
    identity: &forward::Identity,
) -> bool {
    let Ok(verified) = verify::verify(request) else {
        return false;
    };
    let Ok(Decision::Admitted(admitted)) = replay::admit(verified, guard).await else {
        return false;
    };
    let (outbound, lease) = forward::outbound(admitted, upstreams, identity, None);
    let outcome = match lease {
        Lease::NotRequired | Lease::Unguarded => forward::answered(outbound.send().await),
        Lease::Held(held) => held.settle_after(outbound.send_detached()).await,
    };
    outcome.is_ok()
}
