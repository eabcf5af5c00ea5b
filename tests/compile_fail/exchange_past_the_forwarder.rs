// error: E0624
use countersign::upstream::Upstream;

pub fn exchange_past_the_forwarder() {
    let _ = Upstream::exchange;
}
