"""One op a file: the public function, the torch op `dynfocus::<op>` with its fake and its gradient."""
