// error: E0277
use countersign::verify::Verified;

pub fn default_verified() -> Verified<'static> {
    Default::default()
}
